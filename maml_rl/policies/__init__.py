"""Policies: networks, action distributions, parameters as values, normalisation, export."""
