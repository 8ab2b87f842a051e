"""Completion of commands, flags and values, in bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import argcomplete
import pytest
from maml_envs import FAMILIES

import maml_rl
from maml_rl.cli import COMMANDS
from maml_rl.settings.sources import preset_names

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash"),
]

SCRIPT = """#!{python}
import sys
from maml_rl.cli import main
sys.exit(main())
"""
PRESS_TAB = """
COMP_POINT=${#COMP_LINE} COMP_TYPE=9
read -ra COMP_WORDS <<<"$COMP_LINE"
[[ $COMP_LINE == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete maml-rl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""What bash does on Tab, with the function that is registered for maml-rl."""


def complete(line: str, folder: Path) -> set[str]:
    """The completions of ``line`` in ``folder``."""
    script = folder / "bin" / "maml-rl"
    if not script.exists():
        script.parent.mkdir()
        script.write_text(SCRIPT.format(python=sys.executable))
        script.chmod(0o755)
    env = {**os.environ, "COMP_LINE": line, "PATH": f"{script.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", argcomplete.shellcode(["maml-rl"]) + PRESS_TAB],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=env,
    )
    return {word.strip() for word in done.stdout.splitlines()} - {""}


HALF_CHEETAHS = {name for name in maml_rl.pretrained_names() if name.startswith("Half")}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("maml-rl eval", {"evaluate"}),
        ("maml-rl ", {*COMMANDS, "-h", "--help", "--version"}),
        ("maml-rl train --inner.su", {"--inner.surrogate"}),
        ("maml-rl train --inner.surrogate ", {"log_prob", "likelihood_ratio", "dice"}),
        ("maml-rl train --inner.first_order ", {"true", "false"}),
        ("maml-rl train --env ", set(FAMILIES)),
        ("maml-rl train --env=Point", {"PointNavigation", "PointNavigationSparse"}),
        ("maml-rl train --env PointNavigation --env.goal", {"--env.goal_tolerance"}),
        ("maml-rl train --outer promp --seed 3 --outer.k", {"--outer.kl_coefficient"}),
        ("maml-rl train --learner jo", {"joint"}),
        ("maml-rl train --outer p", {"promp", "ppo"}),
        ("maml-rl train --outer unknown --outer.max", {"--outer.max_kl"}),
        ("maml-rl train --config pearl/", {p for p in preset_names() if p.startswith("pearl/")}),
        ("maml-rl train --config rl2/HalfCheetahVel --learner.dis", {"--learner.discount"}),
        ("maml-rl train --config pearl/AntDir --inner.", set()),
        ("maml-rl evaluate HalfCheetahDir --num_t", {"--num_tasks"}),
        ("maml-rl evaluate AntDir --tasks.low 1 --dynamics slope=0.1 --outp", {"--output"}),
        ("maml-rl evaluate HalfCheetahDir Half", HALF_CHEETAHS),
        ("maml-rl record --format ", {"mp4", "gif"}),
        ("maml-rl play HalfCheetahVel --sto", {"--stochastic"}),
        ("maml-rl plot --x ", {"steps", "time", "iterations"}),
        ("maml-rl baselines AntDir --baseline o", {"oracle"}),
        ("maml-rl compare dynamics --learners r", {"randomised", "rl2", "rma"}),
        ("maml-rl list p", {"presets", "pretrained"}),
        ("maml-rl trian --inn", set()),
    ],
)
def test_tab_completes(line: str, words: set[str], tmp_path: Path) -> None:
    assert complete(line, tmp_path) == words


def test_tab_completes_settings_of_ones_own_environment(tmp_path: Path) -> None:
    (tmp_path / "cart.py").write_text("import gymnasium as gym\ngym.register('Cart-v0', 'cart:C')")
    assert "--env.kwarg_ranges" in complete("maml-rl train --env cart:Cart-v0 --env.k", tmp_path)


def test_tab_completes_paths(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "my.yaml").touch()
    runs = complete("maml-rl evaluate ", tmp_path)
    assert {*maml_rl.pretrained_names(), "runs/", "my.yaml"} <= runs
    assert complete("maml-rl train --config m", tmp_path) == {"my.yaml"} | {
        name for name in preset_names() if name.startswith("m")
    }
    assert complete("maml-rl record AntDir --tasks_file m", tmp_path) == {"my.yaml"}
