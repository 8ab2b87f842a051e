"""Policies for users: predict, adapt, save, load, export, and exchange with Stable-Baselines3."""
