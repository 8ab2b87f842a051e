"""Policies: networks, action distributions, parameters as values, normalisation, action map, export."""
