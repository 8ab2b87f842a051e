"""A training run: its parts, its loop, its end."""
