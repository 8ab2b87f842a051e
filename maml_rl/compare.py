"""``python -m maml_rl.compare``; see ``--help``."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from maml_rl.cli import made_folder, main, parse, say
from maml_rl.compare_flags import DEFAULT_SEEDS, chosen_reference, chosen_variants, make_parser
from maml_rl.env_flags import refuse_sweeps, take_env_flags
from maml_rl.errors import UserError
from maml_rl.settings.dynamics_study.methods import DEFAULT_METHODS, METHODS
from maml_rl.settings.dynamics_study.study import DynamicsStudy
from maml_rl.settings.dynamics_study.varied_dynamics import DEFAULT_DYNAMICS
from maml_rl.settings.env import is_family
from maml_rl.system.atomic_files import unwritable_refused
from maml_rl.system.text import counted, duration_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from maml_rl.analysis.dynamics.robustness import Robustness
    from maml_rl.settings.config import Config


def command(argv: list[str]) -> int:
    """Train and compare learners."""
    env_flags, rest = take_env_flags(argv)
    args = parse(make_parser(), rest)
    if args.what is None:
        raise UserError(
            "required: what to compare. Give dynamics: python -m maml_rl.compare dynamics ..."
        )
    args.learners = args.learners or list(DEFAULT_METHODS)
    args.seeds = args.seeds or list(DEFAULT_SEEDS)
    variants = chosen_variants(args.variant)
    names = [*(name for name in METHODS if name in args.learners), *variants]
    reference = chosen_reference(names, args.reference)
    twice = [name for i, name in enumerate(args.learners) if name in args.learners[:i]]
    if twice:
        raise UserError(f"{twice[0]} is named twice")
    refuse_sweeps(env_flags)
    flags = env_flags.flags
    has_dynamics = any(flag.startswith("--env.dynamics.") for flag in flags)
    if is_family(args.env) and not has_dynamics:
        flags = [*flags, *take_env_flags(["--dynamics", DEFAULT_DYNAMICS])[0].flags]

    from maml_rl.runs.seeds import checked_seeds
    from maml_rl.system.torch_runtime import resolve_device
    from maml_rl.training.reporting import Interrupted

    resolve_device(args.device)  # refuse one that does not exist
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
        chosen_sweeps=args.sweep,
    )
    # Check the settings of all methods before training any.
    configs = {name: study.config(name) for name in names}
    checked_seeds(args.seeds, "seeds")
    for config in configs.values():
        _check_length(config, folder)
        _check_start(config, args.seeds)
    typed = shlex.join(["python", "-m", "maml_rl.compare", *argv])
    try:
        _train(configs, args.seeds)
    except Interrupted as error:
        say(f"stopped in {error.run}, after iteration {error.iteration}. Resume with: {typed}")
        return error.exit_status
    _evaluate(study, names, reference, args, typed)
    return 0


def _check_length(config: Config, folder: Path) -> None:
    """Check that earlier runs of a method have the same number of control steps.

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


def _check_start(config: Config, seeds: Sequence[int]) -> None:
    """Open a run of a method, and close it: its errors would come after other methods' training.

    Args:
        config: settings of the method.
        seeds: of its runs.

    Raises:
        UserError: if the folder holds something else, or runs with other settings; if the
            settings of a run cannot be read; or if runs are still to be started, but their learner
            or policy cannot be made.
    """
    from maml_rl.runs.run_folder import run_config
    from maml_rl.training.compose import open_training
    from maml_rl.training.seeds import seed_folder

    existing = seed_folder(config, seeds)
    for run in existing.started:
        run_config(run)
    if not {existing.run(seed) for seed in seeds} <= set(existing.started):
        with open_training(config):
            pass


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
            nominal={name: value.nominal for name, value in study.dynamics.parameters.items()},
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
