"""The Gymnasium environments: one simulation, or a batch of them."""
