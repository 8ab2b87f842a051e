"""The comparison of several methods on dynamics inside and outside the range in training."""
