"""Presets: one YAML file per experiment."""
