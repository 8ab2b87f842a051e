"""Comparison of agents on the same tasks."""
