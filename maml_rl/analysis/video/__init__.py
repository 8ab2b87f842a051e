"""Videos: frames of an environment, a grid of episodes, and the files."""
