"""What a run is on disk: its folder, checkpoints and progress log."""
