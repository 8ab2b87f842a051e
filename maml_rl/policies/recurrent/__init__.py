"""Policies with a memory: recurrent networks, and hypernetworks on top of them."""
