"""A study of unseen dynamics: its methods, and the dynamics of training and evaluation."""
