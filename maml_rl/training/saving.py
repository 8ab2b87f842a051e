"""Save and restore checkpoints of a training run, and report files that cannot be written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from maml_rl.agents.policy_checkpoint import policy_state, policy_tensors
from maml_rl.errors import UserError
from maml_rl.learners.maml.learner import TrainingState
from maml_rl.learners.maml.outer import check_state
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.runs.checkpoint import (
    Checkpoint,
    Found,
    latest_checkpoint,
    remove_leftovers,
    save_checkpoint,
    set_aside,
)
from maml_rl.runs.progress_log import sync_metrics
from maml_rl.sampling.failures import TooManyFailures
from maml_rl.settings.config import Config, origin
from maml_rl.system.stop_flag import signals_held
from maml_rl.training.reporting import log, new_run_command, resume_command


class CannotWriteError(Exception):
    """A file of the run could not be written."""


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Distinguish an OSError of the run's own files from one that an environment raises.

    Raises:
        CannotWriteError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise CannotWriteError(str(error)) from error


@contextlib.contextmanager
def write_failures_reported(run: Path) -> Iterator[None]:
    """Turn a :class:`CannotWriteError` into one line that names the last checkpoint.

    Raises:
        UserError: in place of a CannotWriteError.
    """
    try:
        yield
    except CannotWriteError as error:
        path = latest_checkpoint(run / "checkpoints")
        last = (
            "there is no checkpoint yet"
            if path is None
            else f"the last checkpoint is of iteration {int(path.name)}"
        )
        raise UserError(
            f"{run} cannot be written: {error}; {last}. Resume with: {resume_command(run)}"
        ) from error


def tidy_checkpoints(run: Path, newest: Found | None) -> None:
    """Remove what a killed process left in ``checkpoints/``, and rename damaged checkpoints.

    Args:
        run: the run folder.
        newest: the newest sound checkpoint, with the damaged newer ones.

    Raises:
        CannotWriteError: if a file cannot be removed or renamed.
    """
    with writing():
        remove_leftovers(run / "checkpoints")
        for damaged in newest.damaged if newest is not None else ():
            log(f"{damaged}; renamed to {set_aside(damaged.path)}")


def save_state(run: Path, config: Config, state: TrainingState) -> None:
    """Write a checkpoint of the state, unless it exists.

    Raises:
        CannotWriteError: if it cannot be written.
    """
    folder = run / "checkpoints"
    if (folder / f"{state.iteration:06d}").exists():
        return
    tensors = policy_tensors(state.theta, state.normalizer)
    tensors["outer"] = state.outer_state
    values = {
        "iteration": state.iteration,
        "num_env_steps": state.num_env_steps,
        "failed_outer_steps": state.failed_outer_steps,
        "run": _origin(config),
    }
    with writing():
        # Sync the logs first: a resumed run does not repeat the iterations up to its checkpoint.
        sync_metrics(run)
        save_checkpoint(folder, state.iteration, tensors, values, config.logging.keep_checkpoints)


def save_after(error: BaseException, run: Path, config: Config, state: TrainingState) -> None:
    """Save the last finished iteration, if there is one, and log how to continue.

    Args:
        error: the error that stops the run; the caller raises it again.
        run: the run folder.
        config: settings of the run.
        state: state after the last finished iteration.

    Raises:
        CannotWriteError: if saving fails after a stop signal or another CannotWriteError. After
            any other error, the failure is only logged.
    """
    resume_with = resume_command(run)
    # The messages of these errors already contain the command to resume.
    is_reported = isinstance(error, (KeyboardInterrupt, CannotWriteError))
    if state.iteration == 0:
        if not (is_reported or isinstance(error, TooManyFailures)):
            log(
                "stopped by an error before iteration 1 was finished. After fixing the error: "
                f"{resume_with}"
            )
        return
    # Save the last finished iteration.
    try:
        with signals_held():
            save_state(run, config, state)
    except CannotWriteError as failure:
        if is_reported:
            raise
        log(f"iteration {state.iteration} could not be saved: {failure}")
        return
    # Log how to continue.
    if isinstance(error, TooManyFailures):  # resumed, the run would fail in the same way
        log(
            f"iteration {state.iteration} is saved. Continue from it with other settings: "
            f"{new_run_command(run)} ..."
        )
    elif not is_reported:
        log(
            f"stopped by an error; iteration {state.iteration} is saved. Resume with: {resume_with}"
        )


def restored_state(
    checkpoint: Checkpoint, path: Path, config: Config, policy: MLPPolicy
) -> TrainingState:
    """Return the training state in a checkpoint.

    Args:
        checkpoint: the checkpoint.
        path: path of the checkpoint, for messages.
        config: settings of the run.
        policy: the architecture.

    Raises:
        UserError: if the checkpoint belongs to another run, or does not fit.
    """
    checkpoint.check_run(_origin(config), path)
    theta, normalizer = policy_state(checkpoint, policy, config, path)
    outer_state = checkpoint.tensors.get("outer", {})
    check_state(outer_state, theta, config.outer, path)
    failed_outer_steps = 0
    if "failed_outer_steps" in checkpoint.values:  # checkpoints of earlier versions lack it
        failed_outer_steps = checkpoint.counter("failed_outer_steps", path)
    return TrainingState(
        theta=theta,
        outer_state=outer_state,
        normalizer=normalizer,
        iteration=checkpoint.counter("iteration", path),
        num_env_steps=checkpoint.counter("num_env_steps", path),
        failed_outer_steps=failed_outer_steps,
    )


def _origin(config: Config) -> dict[str, str]:
    """Return the values by which a checkpoint identifies its run."""
    return {**origin(config), "outer step": config.outer.name}
