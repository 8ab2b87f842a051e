"""Files, signals, threads, torch and processes. Nothing here knows reinforcement learning."""
