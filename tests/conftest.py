"""Importing the package first has idle torch threads sleep: the setting is read when torch is loaded."""

import maml_rl  # noqa: F401
