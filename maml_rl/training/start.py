"""Start a training run, or resume it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maml_rl.errors import UserError, value_errors_refused
from maml_rl.runs.checkpoint import load_newest
from maml_rl.runs.run_folder import (
    locked,
    new_default_folder,
    new_run,
    refuse_occupied,
    run_config,
    write_config,
)
from maml_rl.settings.config import Config, to_mapping
from maml_rl.settings.parser import resolve
from maml_rl.system.distributed import Ranks, joined, remember_run_folder, remembered_run_folder
from maml_rl.system.stop_flag import StopFlag
from maml_rl.system.torch_runtime import resolve_device, standard_torch
from maml_rl.system.untrusted_files import user_path
from maml_rl.training.callbacks import Callback, make_callbacks
from maml_rl.training.compose import open_training
from maml_rl.training.reporting import log_resume
from maml_rl.training.saving import (
    refuse_adapted_agent,
    restored_state,
    tidy_checkpoints,
    write_failures_reported,
    writing,
)
from maml_rl.training.stdout_log import default_stdout_log
from maml_rl.training.training_run import TrainingRun, follow

_STOP_NOTICE = "stopping after this part of the iteration; press Ctrl-C again to stop at once"

_run_numbers = itertools.count()
"""Numbers of the runs that this program starts, the same in all processes of ``torchrun``."""


@standard_torch()
@default_stdout_log()
def train(config: Config, callbacks: Sequence[Callback] = ()) -> Path:
    """Meta-train, as ``python -m maml_rl.train`` does.

    Progress is logged at INFO to ``logging.getLogger("maml_rl")``, and printed on stdout unless the
    program has configured logging. A terminal or notebook also shows a progress bar on stderr;
    elsewhere the returns are logged every ``logging.checkpoint_every`` iterations and at the end.
    ``logging.getLogger("maml_rl").setLevel("WARNING")`` turns off all.

    Args:
        config: settings of the run.
        callbacks: called at the start, after each iteration and at the end, after those that
            ``config.callbacks`` names.

    Returns:
        The run folder; :func:`maml_rl.load` reads it. With ``torchrun``, process 0 returns it, the
        others an empty path.

    Raises:
        UserError: if the configuration or a callback is invalid, before any file is written.
        UserError: if a callback raises; the last finished iteration is saved. The error of the
            callback is its cause.
        UserError: if the run folder can no longer be written, as on a full disk; the last
            checkpoint stays.
        Interrupted: on Ctrl-C, SIGTERM or SIGHUP, after the last finished iteration has been saved.
            The first signal takes effect after the current part of an iteration (a collection with
            its inner step, or the outer step), a second one at once.
        TooManyFailures: if too many episodes, tasks or outer steps have failed; the last finished
            iteration is saved, as after any other error.
    """
    if not isinstance(config, Config):
        raise UserError(
            f"train takes a Config, such as from maml_rl.load_config(env=...); got {config!r:.100}"
        )
    # Refuse what config.yaml cannot hold or would be refused in it, before opening anything.
    resolve(to_mapping(config), [], "the configuration")
    with joined(resolve_device(config.device)) as ranks:
        # Resume if torchrun has restarted the processes.
        number = next(_run_numbers)
        restarted_run = remembered_run_folder(number)
        ranks.wait()  # until every process has looked: one of them will remember the run
        if restarted_run is not None:
            path = Path(restarted_run)
            return _resume(ranks, path, run_config(path), callbacks)
        # Start a run; one process writes its folder and calls the callbacks.
        callbacks = make_callbacks(config, callbacks) if ranks.leads else ()
        output = user_path(config.output) if config.output else None
        if output is not None and ranks.leads:
            refuse_occupied(output, resumable=True)  # before environments are made
        stop_flag = StopFlag(_STOP_NOTICE if ranks.leads else "")
        working_directory = Path.cwd()
        with open_training(config, ranks, stop_flag.check) as training:
            is_absolute = output is not None and output.is_absolute()
            if Path.cwd() != working_directory and not is_absolute:
                raise UserError(
                    f"environment {config.env.name!r} has changed the working directory from "
                    f"{working_directory} to {Path.cwd()}: set output to an absolute path"
                )
            config = training.agent.config  # has the engine that was chosen: a resume keeps it
            if not ranks.leads:
                return follow(config, training, stop_flag, has_ended=False)
            run = output or new_default_folder(config.env.name, config.seed)
            with new_run(run, to_mapping(config)):
                remember_run_folder(number, str(run.resolve()))
                return TrainingRun(run, config, training, stop_flag, callbacks).train()


@standard_torch()
@default_stdout_log()
def resume(
    run: str | Path,
    num_iterations: int | None = None,
    callbacks: Sequence[Callback] = (),
    *,
    max_env_steps: int | None = None,
) -> Path:
    """Resume a run from its last checkpoint, or from the start if there is none.

    See :func:`train` for what is logged, returned and raised.

    Args:
        run: the run folder.
        num_iterations: total number of meta-iterations; default is the configured one. A larger
            number extends the run.
        callbacks: as for :func:`train`; they are not saved with the run.
        max_env_steps: total number of control steps at which the run ends; default is the
            configured one.
    """
    run = user_path(run)
    config = extended(run_config(run), num_iterations, max_env_steps)
    with joined(resolve_device(config.device)) as ranks:
        return _resume(ranks, run, config, callbacks)


def extended(config: Config, num_iterations: int | None, max_env_steps: int | None) -> Config:
    """Return settings with another length of the run; ``None`` keeps the configured one.

    Raises:
        UserError: if the settings do not allow it.
    """
    lengths = {"num_iterations": num_iterations, "max_env_steps": max_env_steps}
    changes: dict[str, Any] = {name: n for name, n in lengths.items() if n is not None}
    with value_errors_refused():
        return dataclasses.replace(config, **changes)


def _resume(ranks: Ranks, run: Path, config: Config, callbacks: Sequence[Callback]) -> Path:
    callbacks = make_callbacks(config, callbacks) if ranks.leads else ()
    stop_flag = StopFlag(_STOP_NOTICE if ranks.leads else "")
    with locked(run) if ranks.leads else contextlib.nullcontext():
        # Read the newest checkpoint.
        newest = load_newest(run / "checkpoints", resolve_device(config.device))
        start = config
        if config.engine == "auto":  # it did not choose warp when the run began
            start = dataclasses.replace(start, engine="mujoco")
        if newest is not None:
            refuse_adapted_agent(run, newest.checkpoint)
            # The checkpoint replaces the parameters of init_from, whose run may no longer exist.
            start = dataclasses.replace(start, init_from=None)
        # Open the run in that checkpoint's state.
        opened = open_training(start, ranks, stop_flag.check)
        with opened as training, write_failures_reported(run):
            if newest is not None:
                state = restored_state(run, newest, training.agent)
                training = training._replace(agent=training.agent.with_state(state))
            ranks.wait()  # until every process has read the checkpoint
            has_ended = newest is not None and newest.checkpoint.is_final
            if not ranks.leads:
                return follow(config, training, stop_flag, has_ended)
            # Continue training.
            tidy_checkpoints(run, newest)
            num_finished = training.iteration
            if not has_ended:  # a run that has more iterations than it should ends with those
                total = max(config.num_iterations, num_finished)
                config = dataclasses.replace(config, num_iterations=total)
            if not has_ended or num_finished < config.num_iterations:
                with writing():
                    write_config(run, to_mapping(config))
            log_resume(run, config, num_finished, has_ended)
            best = newest.checkpoint.best() if newest is not None else None
            restored = TrainingRun(run, config, training, stop_flag, callbacks, best, has_ended)
            return restored.train()
