"""Idle torch threads sleep; set before torch is loaded."""

from __future__ import annotations

from maml_rl.threads import let_idle_threads_sleep

let_idle_threads_sleep()
