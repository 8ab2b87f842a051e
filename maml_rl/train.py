"""``python -m maml_rl.train``; see ``--help``."""

from __future__ import annotations

import sys

from maml_rl.cli import main, say
from maml_rl.errors import UserError
from maml_rl.settings.ranges import MOST_DIGITS


def command(argv: list[str]) -> int:
    """Train runs, or resume them."""
    from maml_rl.settings.config import to_mapping
    from maml_rl.settings.flags import take_option, take_seeds
    from maml_rl.settings.parser import parse_training_arguments
    from maml_rl.system.safe_yaml import to_yaml

    seeds, rest = take_seeds(argv)
    run, rest = take_option(rest, "--resume")
    if seeds is not None:
        _check_alone(run, rest)
    if run is None:
        config = parse_training_arguments([token for token in rest if token != "--print_config"])
        if "--print_config" in rest:
            say(to_yaml(to_mapping(config)).rstrip())
            return 0

    # Imported here, since it imports torch, which --help does not need.
    from maml_rl.runs.seeds import is_seed_folder
    from maml_rl.system.untrusted_files import user_path
    from maml_rl.training.loop import Interrupted, resume, train
    from maml_rl.training.seeds import resume_seeds, train_seeds

    try:
        if run is not None and is_seed_folder(user_path(run)):
            resume_seeds(user_path(run), _iterations_to_resume(rest))
        elif run is not None:
            resume(run, _iterations_to_resume(rest))
        elif seeds is not None:
            train_seeds(config, seeds)
        else:
            train(config)
    except Interrupted as error:
        say(str(error))
        return error.exit_status
    return 0


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


def _iterations_to_resume(rest: list[str]) -> int | None:
    """Return the value of --num_iterations, the only setting that --resume allows."""
    from maml_rl.settings.flags import take_option

    iterations, others = take_option(rest, "--num_iterations")
    if others:
        raise UserError(
            f"--resume uses the settings of the run: only --num_iterations can be changed, not "
            f"{others[0]}"
        )
    if iterations is None:
        return None
    if not iterations.isdecimal() or len(iterations) > MOST_DIGITS or int(iterations) < 1:
        raise UserError(f"--num_iterations must be a positive integer, got {iterations!r:.100}")
    return int(iterations)


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
