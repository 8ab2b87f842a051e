"""Learners: from episodes to adapted and to meta-trained parameters."""
