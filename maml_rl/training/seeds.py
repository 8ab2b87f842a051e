"""Train one configuration with several seeds, one run after another."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from maml_rl.errors import UserError
from maml_rl.runs.checkpoint import latest_checkpoint
from maml_rl.runs.run_folder import new_default_folder
from maml_rl.runs.seeds import SeedFolder, checked_seeds, read_seed_folder, with_seeds
from maml_rl.sampling.failures import TooManyFailures
from maml_rl.settings.config import Config, to_mapping
from maml_rl.settings.parser import resolve
from maml_rl.system.atomic_files import unwritable_refused
from maml_rl.system.distributed import is_launched
from maml_rl.system.untrusted_files import user_path
from maml_rl.training.reporting import Interrupted, log
from maml_rl.training.start import extended, resume, train
from maml_rl.training.stdout_log import default_stdout_log


@default_stdout_log()
def train_seeds(config: Config, seeds: Sequence[int]) -> list[Path]:
    """Meta-train one run for each seed, one after another.

    The same call with the same ``config.output`` continues: it keeps finished runs, resumes
    interrupted ones, and starts the others. It may also add seeds.

    Args:
        config: settings of the runs. Its ``output`` is the folder of all runs, which are
            ``output/seed-0``, ...; ``None``: runs/FAMILY/date-time. Its ``seed`` is not used.
        seeds: different non-negative integers.

    Returns:
        The run folders, in the order of ``seeds``.

    Raises:
        UserError: as :func:`maml_rl.train`; also if the seeds are invalid, the folder holds
            something else or runs with other settings, or ``torchrun`` started this process.
        Interrupted: as :func:`maml_rl.train`; later runs are not started.
        TooManyFailures: at the end, if runs have stopped for that reason; the others are trained.
    """
    if not isinstance(config, Config):
        raise UserError(
            f"train_seeds takes a Config, such as from maml_rl.load_config(env=...); "
            f"got {config!r:.100}"
        )
    _refuse_launcher()
    return _train_all(seed_folder(config, seeds), checked_seeds(seeds, "seeds"))


def seed_folder(config: Config, seeds: Sequence[int]) -> SeedFolder:
    """Return the folder in which :func:`train_seeds` starts or continues; write nothing into it.

    Args:
        config: as for :func:`train_seeds`; without ``output``, an empty folder is made.
        seeds: as for :func:`train_seeds`.

    Raises:
        UserError: if an argument is invalid, or the folder holds something else or runs with other
            settings.
    """
    # Refuse what files cannot hold, and invalid seeds, before anything is made.
    values = to_mapping(dataclasses.replace(config, seed=Config.seed, output=None))
    shared = resolve(values, [], "the configuration")  # as it will be read again
    checked = checked_seeds(seeds, "seeds")
    # The given folder or a new one.
    path = user_path(config.output) if config.output else new_default_folder(config.env.name)
    return with_seeds(path, shared, checked)


@default_stdout_log()
def resume_seeds(
    folder: Path, num_iterations: int | None = None, max_env_steps: int | None = None
) -> list[Path]:
    """Continue all runs in a folder of several seeds; see :func:`train_seeds`.

    Args:
        folder: the folder that :func:`train_seeds` wrote.
        num_iterations: total number of meta-iterations of each run; default is the configured one.
            A larger number extends finished runs.
        max_env_steps: as for :func:`maml_rl.resume`.
    """
    _refuse_launcher()
    existing = read_seed_folder(folder)
    config = extended(existing.config, num_iterations, max_env_steps)
    return _train_all(dataclasses.replace(existing, config=config), existing.seeds)


def _refuse_launcher() -> None:
    """Raise UserError if ``torchrun`` started this process: it restarts and resumes one run."""
    if is_launched():
        raise UserError("several seeds need one process: with torchrun, train one seed at a time")


def _train_all(folder: SeedFolder, seeds: Sequence[int]) -> list[Path]:
    """Start or resume the run of each seed, all with the length that the folder's settings have."""
    config = folder.config
    failures: dict[Path, TooManyFailures] = {}
    runs = [folder.run(seed) for seed in seeds]
    with _written(folder):
        for number, (seed, run) in enumerate(zip(seeds, runs, strict=True), 1):
            try:
                log(f"seed {seed}, run {number} of {len(seeds)}: {run}")
                if run in folder.started:
                    resume(run, config.num_iterations, max_env_steps=config.max_env_steps)
                else:
                    train(dataclasses.replace(config, seed=seed, output=str(run)))
            except TooManyFailures as error:
                log(f"seed {seed} stopped: {error}")
                failures[run] = error
            except KeyboardInterrupt as error:
                if not folder.started:
                    raise  # there is nothing to resume
                raise _interrupted(error, run, folder) from error
    if failures:
        text = "; ".join(f"{run}: {error}" for run, error in failures.items())
        rows = [row for error in failures.values() for row in error.rows]
        raise TooManyFailures(f"{len(failures)} of {len(runs)} runs stopped: {text}", rows)
    return runs


@contextlib.contextmanager
def _written(folder: SeedFolder) -> Iterator[None]:
    """Write seeds.yaml; remove it at the end if no run has been started and left files."""
    try:
        with unwritable_refused(folder.path):
            folder.write()
        yield
    finally:
        if not folder.started:
            folder.remove()


def _interrupted(error: KeyboardInterrupt, run: Path, folder: SeedFolder) -> Interrupted:
    """Return the error that stops all seeds, with the command that resumes them."""
    if isinstance(error, Interrupted):
        return Interrupted(run, error.iteration, error.number, folder.path)
    # Interrupted while the run was opened, or saved after an error
    newest = latest_checkpoint(run / "checkpoints")
    iteration = 0 if newest is None else int(newest.name)
    return Interrupted(run, iteration, getattr(error, "number", signal.SIGINT), folder.path)
