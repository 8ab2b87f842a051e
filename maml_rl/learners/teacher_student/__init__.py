"""A teacher that observes the task, and a student that infers what the teacher knows of it."""
