"""Policies with a memory as learners: how they act, and PPO on whole trials."""
