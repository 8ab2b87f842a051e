"""Every setting with its range and default, from flags and YAML files. Imports no torch."""
