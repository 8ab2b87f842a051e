"""Task families, one file per robot: tasks, observations, rewards and episode ends."""
