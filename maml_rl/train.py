"""``python -m maml_rl.train``; see ``--help``."""

from __future__ import annotations

import sys

from maml_rl.cli import main, say
from maml_rl.errors import UserError
from maml_rl.settings.ranges import MOST_DIGITS


def command(argv: list[str]) -> int:
    """Train a run, or resume one."""
    from maml_rl.settings.config import to_mapping
    from maml_rl.settings.flags import take_option
    from maml_rl.settings.parser import parse_training_arguments
    from maml_rl.system.safe_yaml import to_yaml

    run, rest = take_option(argv, "--resume")
    if run is None:
        config = parse_training_arguments([token for token in rest if token != "--print_config"])
        if "--print_config" in rest:
            say(to_yaml(to_mapping(config)).rstrip())
            return 0

    # Imported here, since it imports torch, which --help does not need.
    from maml_rl.training.loop import Interrupted, resume, train

    try:
        if run is None:
            train(config)
        else:
            changes = _changes_to_resume(rest)
            resume(run, changes.get("num_iterations"), max_env_steps=changes.get("max_env_steps"))
    except Interrupted as error:
        say(str(error))
        return error.exit_status
    return 0


def _changes_to_resume(rest: list[str]) -> dict[str, int]:
    """Return --num_iterations and --max_env_steps, the only settings that --resume allows."""
    from maml_rl.settings.flags import take_option

    changes = {}
    for name in ("num_iterations", "max_env_steps"):
        value, rest = take_option(rest, f"--{name}")
        if value is None:
            continue
        if not value.isdecimal() or len(value) > MOST_DIGITS or int(value) < 1:
            raise UserError(f"--{name} must be a positive integer, got {value!r:.100}")
        changes[name] = int(value)
    if rest:
        raise UserError(
            f"--resume uses the settings of the run: only --num_iterations and --max_env_steps can "
            f"be changed, not {rest[0]}"
        )
    return changes


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
