"""Every setting, its range and default, from flags and YAML files. Nothing here imports torch."""
