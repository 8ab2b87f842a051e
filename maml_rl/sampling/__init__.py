"""Environments with tasks, and episodes collected in them."""
