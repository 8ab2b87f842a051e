"""docs/use_an_agent.md: its Python examples work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import maml_rl

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "use_an_agent.md").read_text()
ADAPT, PLAY, MEMORY, FILM = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)

pytestmark = pytest.mark.slow


def test_agents_adapt_and_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(ADAPT + PLAY, names)
    assert names["truncated"]
    assert names["env"].action_space.contains(names["action"])
    assert maml_rl.load("runs/adapted").num_adaptation_steps == 1
    # An agent with a memory: the second episode begins with it.
    exec(MEMORY, names)
    assert names["ended"]
    assert names["memory"]


def test_an_episode_is_filmed(tmp_path: Path) -> None:
    film = "import gymnasium, maml_rl\n" + FILM
    without_display = {"MUJOCO_GL": "egl", **os.environ}
    subprocess.run([sys.executable, "-c", film], cwd=tmp_path, env=without_display, check=True)
    assert (tmp_path / "episode.mp4").stat().st_size > 0
