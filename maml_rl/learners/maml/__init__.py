"""MAML over policy-gradient learners (Finn et al. 2017)."""
