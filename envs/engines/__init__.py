"""Engines step simulations: MuJoCo in batches, MuJoCo with rendering, and a point mass."""
