"""Learners: adapt parameters to tasks, and meta-train them, from episodes."""
