"""The flags of ``python -m maml_rl.compare``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from maml_rl.cli import Parser, non_negative, one_of, path_argument, positive
from maml_rl.env_flags import sweeps
from maml_rl.errors import UserError
from maml_rl.settings.dynamics_study.methods import (
    DEFAULT_REFERENCE,
    METHODS,
    Method,
    make_variant,
)
from maml_rl.settings.dynamics_study.varied_dynamics import DEFAULT_DYNAMICS

DEFAULT_SEEDS = (0, 1, 2)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        prog="python -m maml_rl.compare",
        description="Train several learners on the same varied dynamics, with the same number "
        "of control steps. Evaluate them with the same dynamics, inside and outside the ranges of "
        "training, and write one report. Repeat the command to resume: it keeps finished runs and "
        "evaluations.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=["dynamics"],
        help="what differs between training and evaluation (required)",
    )
    parser.add_argument(
        "--env",
        default="Walker2dRandParams",
        help="task family, or another environment, in which --dynamics varies arguments of the "
        "constructor (default: %(default)s)",
    )
    _add_methods(parser)
    _add_training(parser)
    _add_evaluation(parser)
    parser.add_argument("--device", default="auto", help="cpu, cuda, ..., or auto (default)")
    parser.add_argument(
        "--output",
        type=path_argument,
        help="folder of the runs and the report (default: runs/compare/FAMILY-dynamics)",
    )
    return parser


def _add_methods(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose what is compared."""
    parser.add_argument(
        "--learners",
        type=_method,
        nargs="+",
        action="extend",
        metavar="NAME",
        help=f"what to compare, of {', '.join(METHODS)} (default: all but pearl, which takes many "
        "hours). untouched: one policy trained with nominal dynamics; randomised: the same on "
        "varied dynamics (domain randomisation); oracle: the same, but it observes the task and "
        "the dynamics (no upper bound at a small budget); the others are learners",
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar='NAME="FLAGS"',
        help="also compare maml, or the learner in FLAGS, with other settings, e.g. "
        'promp="--outer promp --outer.step_size 0.003" or mine="--learner my_module:Learner"; may '
        "be repeated",
    )
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="method that each other one is compared with, inside and outside the ranges of "
        f"training (default: {DEFAULT_REFERENCE} if it is compared, else the first)",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the training of all methods."""
    parser.add_argument(
        "--seeds",
        type=non_negative,
        nargs="+",
        action="extend",
        metavar="SEED",
        help="training seeds of each (default: 0 1 2)",
    )
    parser.add_argument(
        "--num_env_steps",
        type=positive,
        default=4_000_000,
        help="control steps of each run (default: %(default)s)",
    )
    parser.add_argument(
        "--horizon",
        type=positive,
        help="control steps of an episode (default: that of the family's preset)",
    )
    parser.add_argument(
        "--action_scale",
        type=float,
        help="policy.action_scale of all methods: an output of 1 moves an action by this fraction "
        "of half its range (default: that of each learner's preset)",
    )
    parser.add_argument(
        "--dynamics",
        metavar="NAME=LOW:HIGH,...",
        help=f"dynamics in training (default for a task family: {DEFAULT_DYNAMICS})",
    )
    parser.add_argument(
        "--tasks.SETTING",
        metavar="VALUE",
        help="change a setting of the task family, e.g. --tasks.directions forward",
    )


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the evaluation."""
    parser.add_argument(
        "--num_tasks",
        type=positive,
        default=20,
        help="fresh tasks for each setting of the dynamics (default: 20)",
    )
    parser.add_argument(
        "--num_episodes",
        type=positive,
        default=20,
        help="measured episodes per task and step (default: 20)",
    )
    parser.add_argument(
        "--sweep",
        type=sweeps,
        default={},
        metavar="NAME=LOW:HIGH:POINTS,...",
        help="values of a quantity of --dynamics in the evaluation, in addition to the nominal one "
        "(default: 7 values, up to twice as far from the nominal one as in training)",
    )
    parser.add_argument(
        "--num_steps",
        type=positive,
        help="adaptation steps of the evaluation (default: as many as in training)",
    )
    parser.add_argument(
        "--evaluation_seed",
        type=non_negative,
        default=1000,
        help="seed of the evaluation (default: %(default)s)",
    )


def _method(name: str) -> str:
    """Parse the name of a method; of what only a variant can have, say how to add it."""
    from maml_rl.settings.learners import OUTER_CONFIGS

    flags = None
    if name in OUTER_CONFIGS:
        flags = f"--outer {name}"
    elif ":" in name:
        flags = f"--learner {name}"
    if flags is not None:
        what = "an outer step of maml" if name in OUTER_CONFIGS else "a learner of your own"
        label = name.rpartition(":")[2]
        raise argparse.ArgumentTypeError(
            f'{name} is {what}: add it with --variant {label}="{flags}"'
        )
    return one_of("method", METHODS)(name)


def chosen_variants(texts: Sequence[str]) -> dict[str, Method]:
    """Return the methods that ``--variant`` describes, by name.

    Raises:
        UserError: if one is invalid, or two have one name.
    """
    variants: dict[str, Method] = {}
    for text in texts:
        name, method = make_variant(text)
        if name in variants:
            raise UserError(f"--variant {name} is given twice")
        variants[name] = method
    return variants


def chosen_reference(names: Sequence[str], chosen: str | None) -> str:
    """Return the method that each other one is compared with.

    Args:
        names: of the methods.
        chosen: by the user, if any.

    Raises:
        UserError: if the chosen one is not compared.
    """
    if chosen is not None and chosen not in names:
        raise UserError(f"--reference {chosen} is not compared. Valid are {', '.join(names)}")
    return chosen or (DEFAULT_REFERENCE if DEFAULT_REFERENCE in names else names[0])
