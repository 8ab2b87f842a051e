"""docs/custom_networks.md: its network and its command work."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import gymnasium as gym
import pytest

import maml_rl
from maml_rl.cli import main
from maml_rl.learners.linear_baseline import MOST_FEATURE_ENTRIES
from maml_rl.policies.mlp import MOST_OBSERVATION_ENTRIES

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "custom_networks.md").read_text()
SMALL = [
    "--meta_batch_size",
    "2",
    "--num_episodes",
    "2",
    "--num_iterations",
    "1",
    "--output",
    "run",
]
QUIET = ["--logging.final_video", "false", "--logging.final_evaluation", "false"]

ENVIRONMENT = """
import gymnasium
from helpers.networks import Lights

gymnasium.register(id="Camera-v0", entry_point=Lights, max_episode_steps=4)
"""


def _block(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    return block


@pytest.mark.slow
def test_the_command_trains_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_networks.py").write_text(_block("python"))
    (tmp_path / "my_package.py").write_text(ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    _, _, module, *arguments = shlex.split(_block("sh"))
    try:
        assert main([module.removeprefix("maml_rl."), *arguments, *SMALL, *QUIET]) == 0
        policy = maml_rl.load("run").learner.policy
        assert type(policy.network).__name__ == "Convolutional"
    finally:
        sys.modules.pop("my_networks", None)
        sys.modules.pop("my_package", None)
        gym.registry.pop("Camera-v0", None)


def test_the_limits_are_those_of_the_code() -> None:
    assert f"more than {MOST_FEATURE_ENTRIES} entries, it is a function of time" in DOCUMENT
    assert f"at most {MOST_OBSERVATION_ENTRIES:,} entries" in DOCUMENT
