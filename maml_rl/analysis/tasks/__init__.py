"""Tasks of an evaluation or video: which to show, and how."""
