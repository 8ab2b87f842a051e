"""Task families, one robot a file: tasks, observations, rewards, and when an episode ends."""
