"""Set before torch and MuJoCo are loaded: idle threads sleep, and pictures are drawn without a screen."""

from __future__ import annotations

import os
import sys

from maml_rl.threads import let_idle_threads_sleep

let_idle_threads_sleep()
if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("MUJOCO_GL", "egl")
