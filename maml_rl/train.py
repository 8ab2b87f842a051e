"""``python -m maml_rl.train``; see ``--help``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maml_rl.cli import main, positive, say
from maml_rl.errors import UserError


def command(argv: list[str]) -> int:
    """Train runs, or resume them."""
    from maml_rl.env_flags import refuse_sweeps, take_env_flags
    from maml_rl.settings.config import to_mapping
    from maml_rl.settings.flags import take_option, take_seeds
    from maml_rl.settings.parser import parse_training_arguments
    from maml_rl.system.safe_yaml import to_yaml

    seeds, rest = take_seeds(argv)
    run, rest = take_option(rest, "--resume")
    if seeds is not None:
        _check_alone(run, rest)
    if run is None:
        env_flags, others = take_env_flags(rest, only_dynamics=True)
        refuse_sweeps(env_flags)
        settings = [token for token in others if token != "--print_config"]
        config = parse_training_arguments([*settings, *env_flags.flags])
        if "--print_config" in rest:
            say(to_yaml(to_mapping(config)).rstrip())
            return 0

    # Imported here, since it imports torch, which --help does not need.
    from maml_rl.system.untrusted_files import user_path
    from maml_rl.training.reporting import Interrupted
    from maml_rl.training.seeds import train_seeds
    from maml_rl.training.start import train

    try:
        if run is not None:
            _resume(user_path(run), _changes_to_resume(rest))
        elif seeds is not None:
            _say_how_to_evaluate(train_seeds(config, seeds))
        else:
            _say_what_is_next(train(config))
    except Interrupted as error:
        say(str(error))
        return error.exit_status
    return 0


def _resume(run: Path, changes: Mapping[str, Any]) -> None:
    """Resume a run, or all runs in a folder of several seeds."""
    from maml_rl.runs.seeds import is_seed_folder
    from maml_rl.training.seeds import resume_seeds
    from maml_rl.training.start import resume

    if is_seed_folder(run):
        _say_how_to_evaluate(resume_seeds(run, **changes))
    else:
        _say_what_is_next(resume(run, **changes))


def _say_what_is_next(run: Path) -> None:
    """Print where the policy is, and how to evaluate it, unless the run has been evaluated."""
    from maml_rl.runs.run_folder import run_config
    from maml_rl.system.distributed import is_follower

    if not is_follower() and not run_config(run).logging.final_evaluation:
        command = f"python -m maml_rl.evaluate {shlex.quote(str(run))}"
        say(f"finished: the policy is in {run}; next: {command}")


def _say_how_to_evaluate(runs: Sequence[Path]) -> None:
    """Print the command that evaluates all runs in a folder of several seeds."""
    say(f"evaluate all: python -m maml_rl.evaluate {shlex.quote(str(runs[0].parent))}")


def _check_alone(run: str | None, rest: list[str]) -> None:
    """Refuse flags that contradict ``--seeds``.

    Args:
        run: value of ``--resume``.
        rest: the other flags.

    Raises:
        UserError: if there is one.
    """
    if run is not None:
        raise UserError(
            "--seeds cannot be combined with --resume, which resumes all runs in the folder of "
            "--seeds"
        )
    flags = {word.partition("=")[0] for word in rest}
    for flag in ("--seed", "--print_config"):
        if flag in flags:
            raise UserError(f"--seeds cannot be combined with {flag}, which is for a single run")


def _changes_to_resume(rest: list[str]) -> dict[str, int]:
    """Return --num_iterations and --max_env_steps, the only settings that --resume allows."""
    from maml_rl.settings.flags import take_option

    changes = {}
    for name in ("num_iterations", "max_env_steps"):
        value, rest = take_option(rest, f"--{name}")
        if value is None:
            continue
        try:
            changes[name] = positive(value)
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--{name}: {error}") from error
    if rest:
        raise UserError(
            f"--resume uses the settings of the run: only --num_iterations and --max_env_steps can "
            f"be changed, not {rest[0]}"
        )
    return changes


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
