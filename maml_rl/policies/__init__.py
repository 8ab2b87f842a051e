"""Policies: networks, action distributions, parameters as values, and what surrounds a network."""
