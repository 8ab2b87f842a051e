"""``python -m maml_rl.compare``; see ``--help``."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from maml_rl.cli import (
    Parser,
    made_folder,
    main,
    non_negative,
    one_of,
    parse,
    path_argument,
    positive,
    say,
)
from maml_rl.env_flags import refuse_sweeps, take_env_flags
from maml_rl.errors import UserError
from maml_rl.settings.dynamics_study.methods import (
    DEFAULT_METHODS,
    DEFAULT_REFERENCE,
    METHODS,
    Method,
    make_variant,
)
from maml_rl.settings.dynamics_study.study import DynamicsStudy
from maml_rl.settings.dynamics_study.varied_dynamics import DEFAULT_DYNAMICS
from maml_rl.settings.env import is_family
from maml_rl.system.atomic_files import unwritable_refused
from maml_rl.system.text import counted, duration_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from maml_rl.analysis.dynamics.robustness import Robustness
    from maml_rl.settings.config import Config

_SEEDS = (0, 1, 2)


def command(argv: list[str]) -> int:
    """Train and compare learners."""
    env_flags, rest = take_env_flags(argv)
    args = parse(make_parser(), rest)
    if args.what is None:
        raise UserError(
            "required: what to compare. Give dynamics: python -m maml_rl.compare dynamics ..."
        )
    variants = _variants(args.variant)
    names = [*(name for name in METHODS if name in args.learners), *variants]
    reference = _reference(names, args.reference)
    twice = [name for i, name in enumerate(args.learners) if name in args.learners[:i]]
    if twice:
        raise UserError(f"{twice[0]} is named twice")
    refuse_sweeps(env_flags)
    flags = env_flags.flags
    has_dynamics = any(flag.startswith("--env.dynamics.") for flag in flags)
    if is_family(args.env) and not has_dynamics:
        flags = [*flags, *take_env_flags(["--dynamics", DEFAULT_DYNAMICS])[0].flags]

    from maml_rl.runs.seeds import checked_seeds
    from maml_rl.training.reporting import Interrupted

    family = args.env.rpartition(":")[2].replace("/", "-")
    folder = args.output or Path("runs") / "compare" / f"{family}-dynamics"
    study = DynamicsStudy(
        env=args.env,
        flags=flags,
        num_env_steps=args.num_env_steps,
        horizon=args.horizon,
        action_scale=args.action_scale,
        folder=folder,
        device=args.device,
        variants=variants,
    )
    # Check the settings of all methods before training any.
    configs = {name: study.config(name) for name in names}
    checked_seeds(args.seeds, "seeds")
    for config in configs.values():
        _check_length(config, folder)
    typed = shlex.join(["python", "-m", "maml_rl.compare", *argv])
    try:
        _train(configs, args.seeds)
    except Interrupted as error:
        say(f"stopped in {error.run}, after iteration {error.iteration}. Resume with: {typed}")
        return error.exit_status
    _evaluate(study, names, reference, args, typed)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        prog="python -m maml_rl.compare",
        description="Train several learners on the same varied dynamics, with as many control "
        "steps each. Evaluate them with the same dynamics, inside and outside the ranges of "
        "training, and write one report. The same command resumes; it keeps finished runs and "
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
        default=list(DEFAULT_METHODS),
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
        default=list(_SEEDS),
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
        help="fresh tasks for each version of the dynamics (default: 20)",
    )
    parser.add_argument(
        "--num_episodes",
        type=positive,
        default=20,
        help="measured episodes per task and step (default: 20)",
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


def _variants(texts: Sequence[str]) -> dict[str, Method]:
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


def _check_length(config: Config, folder: Path) -> None:
    """Check that earlier runs of a method have as many control steps.

    They are not extended: step sizes that fall over a run, and the share of a teacher, depend on
    its length.

    Args:
        config: settings of the method now; its output is the folder of the runs.
        folder: of the comparison.

    Raises:
        UserError: if they have another number.
    """
    from maml_rl.runs.seeds import is_seed_folder, read_seed_folder

    path = Path(str(config.output))
    if not is_seed_folder(path):
        return
    existing = read_seed_folder(path)
    old, new = existing.config.max_env_steps, config.max_env_steps
    if existing.started and old != new:
        raise UserError(
            f"the runs in {path} have {old:,} control steps, not {new:,}, and are not extended, "
            "since falling step sizes depend on the length of a run. Keep them with "
            f"--num_env_steps {old}, or train others with --output {folder}-{new}"
        )


def _train(configs: Mapping[str, Config], seeds: Sequence[int]) -> None:
    """Train all runs of all methods; say how many there are, and after the first one how long.

    Args:
        configs: settings of each method, by its name.
        seeds: of each method.

    Raises:
        Interrupted: on Ctrl-C or a signal.
    """
    from maml_rl.runs.seeds import is_seed_folder
    from maml_rl.training.seeds import train_seeds

    num_runs = len(configs) * len(seeds)
    (_, first), *_ = configs.items()
    say(
        f"{counted(num_runs, 'run')} of at least {first.max_env_steps:,} control steps each: "
        f"{', '.join(configs)}; {counted(len(seeds), 'seed')} of each"
    )
    for number, (name, config) in enumerate(configs.items(), 1):
        say(f"method {number} of {len(configs)}: {name}")
        if number == 1 and num_runs > 1 and not is_seed_folder(Path(str(config.output))):
            # Train one run alone, to estimate the time of all.
            started_s = time.monotonic()
            train_seeds(config, seeds[:1])
            duration_s = time.monotonic() - started_s
            others = counted(num_runs - 1, "other run")
            say(
                f"the first run took {duration_text(duration_s)}; at this pace, the {others} take "
                f"{duration_text(duration_s * (num_runs - 1))} (methods differ)"
            )
            if len(seeds) == 1:
                continue
        train_seeds(config, seeds)


def _reference(names: Sequence[str], chosen: str | None) -> str:
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


def _evaluate(
    study: DynamicsStudy,
    names: Sequence[str],
    reference: str,
    args: argparse.Namespace,
    typed: str,
) -> None:
    """Evaluate the runs of all methods, and write the report.

    Args:
        study: the settings that all methods share.
        names: of the methods.
        reference: the method that each other one is compared with.
        args: the arguments of the command.
        typed: the command line.
    """
    from maml_rl.analysis.comparison.compare import compare, num_evaluations
    from maml_rl.analysis.dynamics.robustness import Robustness
    from maml_rl.analysis.dynamics.study import conditions_of, origins_of, subjects_of
    from maml_rl.analysis.learning_curve_figure import learning_curves
    from maml_rl.analysis.learning_curves import read_runs
    from maml_rl.analysis.report.files import write_report
    from maml_rl.system.torch_runtime import resolve_device
    from maml_rl.training.reporting import evaluations_shown

    device = resolve_device(args.device)
    subjects = [
        subject
        for name in names
        for subject in subjects_of(study, name, args.seeds, device, args.num_steps)
    ]
    conditions = conditions_of(study)
    output = study.folder / "evaluation"
    total = num_evaluations(subjects, conditions)
    say(
        f"evaluating {counted(len(subjects), 'run')} on {counted(len(conditions), 'version')} of "
        f"the dynamics: {counted(total, 'evaluation')}, into {output}"
    )
    with made_folder(output), evaluations_shown(total) as (progress, activity):
        comparison = compare(
            subjects,
            conditions,
            num_tasks=args.num_tasks,
            num_episodes=args.num_episodes,
            seed=args.evaluation_seed,
            finished=output / "finished",
            progress=progress,
            activity=activity,
        )
        runs = {
            name: read_runs([one.source for one in subjects if one.label == name]) for name in names
        }
        trained = {name: study.trained_range(name) for name in study.sweeps()}
        robustness = Robustness(
            comparison,
            origins_of(study, subjects, runs),
            trained,
            reference=reference,
            budget=args.num_env_steps,
        )
        with unwritable_refused(output, "; the same command resumes"):
            write_report(output, comparison, trained, typed, robustness, learning_curves(runs))
    _say_tables(robustness)
    say(f"written to {output}: report.html, results.json, results.csv, plots")


def _say_tables(robustness: Robustness) -> None:
    """Print the tables of the report; some may have no rows."""
    from maml_rl.analysis.dynamics import tables
    from maml_rl.system.text import text_table

    titled = [
        ("", tables.summary(robustness)),
        ("before and after adaptation", tables.gains(robustness)),
        ("return after each adaptation step", tables.adaptation(robustness)),
        (f"differences to {robustness.reference}", tables.differences(robustness)),
        ("mean return along each whole sweep", tables.areas(robustness)),
        ("two quantities together", tables.pairs(robustness)),
        *tables.failures(robustness),
    ]
    for title, rows in titled:
        if rows:
            say("\n".join([title, *text_table(rows), ""]).lstrip("\n"))
    for note in [*tables.failure_notes(robustness), *tables.budget_notes(robustness)]:
        say(note)


if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
