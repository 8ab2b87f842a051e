"""Gymnasium environments of one simulation and of a batch."""
