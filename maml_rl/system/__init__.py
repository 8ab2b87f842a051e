"""What every room stands on: files, signals, threads, torch, processes. Nothing here knows reinforcement learning."""
