"""Engines step simulations: MuJoCo in batches or with rendering, MuJoCo Warp, and a point."""
