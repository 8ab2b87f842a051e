"""Save and restore checkpoints of a training run, and report files that cannot be written."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from maml_rl.agents.agent import Agent
from maml_rl.agents.learner_checkpoint import ACTIONS, check_actions, restored
from maml_rl.errors import UserError
from maml_rl.learners.base import LearnerState
from maml_rl.policies.action_map import actions_text
from maml_rl.runs.checkpoint import (
    NewestCheckpoint,
    latest_checkpoint,
    quarantine,
    remove_leftovers,
    save_checkpoint,
)
from maml_rl.runs.checkpoint_files import HISTORY, IS_FINAL, NUM_ADAPTATION_STEPS, Best, Checkpoint
from maml_rl.runs.history import history_file, read_history, remove_unneeded, write_history
from maml_rl.runs.progress_log import sync_metrics
from maml_rl.sampling.failures import TooManyFailures
from maml_rl.settings.config import Config, origin
from maml_rl.system.stop_flag import signals_held
from maml_rl.system.text import counted
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


def tidy_checkpoints(run: Path, newest: NewestCheckpoint | None) -> None:
    """Remove what a killed process left in the run folder, and rename damaged checkpoints.

    Args:
        run: the run folder.
        newest: the newest sound checkpoint, with the damaged newer ones.

    Raises:
        CannotWriteError: if a file cannot be removed or renamed.
    """
    with writing():
        remove_leftovers(run / "checkpoints")
        remove_leftovers(run / HISTORY)
        for damaged in newest.damaged if newest is not None else ():
            log(f"{damaged}; renamed to {quarantine(damaged.path)}")


def better_of(best: Best | None, iteration: int, value: float) -> Best | None:
    """Return the better of the best iteration so far and an evaluated one; on a tie the earlier.

    Args:
        best: the best so far.
        iteration: the evaluated iteration.
        value: its return after the last adaptation step; one that is not finite never counts.
    """
    is_better = math.isfinite(value) and (best is None or value > best.value)
    return Best(iteration, value) if is_better else best


def save_state(run: Path, agent: Agent, best: Best | None = None, is_final: bool = False) -> None:
    """Write a checkpoint of the training state, unless it exists; a final one replaces it.

    Args:
        run: the run folder.
        agent: in training.
        best: the best iteration so far, if the run keeps it.
        is_final: whether the run has ended, and the learner has chosen what it chooses then.

    Raises:
        CannotWriteError: if it cannot be written.
    """
    folder = run / "checkpoints"
    state = agent.state
    iteration = state.counters["iteration"]
    if (folder / f"{iteration:06d}").exists() and not is_final:
        return
    run_values = {**_origin(agent.config), ACTIONS: actions_text(agent.action_space)}
    values = {**state.counters, "run": run_values, IS_FINAL: is_final}
    with writing():
        # Sync the logs first: a resumed run does not repeat the iterations up to its checkpoint.
        sync_metrics(run)
        keep = agent.config.logging.keep_checkpoints
        values |= write_history(run, state.history, iteration)
        save_checkpoint(folder, iteration, state.tensors, values, keep, best)
        if state.history and keep:
            remove_unneeded(run)


def save_after(error: BaseException, run: Path, agent: Agent, best: Best | None = None) -> None:
    """Save the last finished iteration, if there is one, and log how to continue.

    Args:
        error: the error that stops the run; the caller raises it again.
        run: the run folder.
        agent: after the last finished iteration.
        best: see :func:`save_state`.

    Raises:
        CannotWriteError: if saving fails after a stop signal or another CannotWriteError. After
            any other error, the failure is only logged.
        StopSignal: if a stop signal is received while saving after another error.
    """
    resume_with = resume_command(run)
    # The messages of these errors already contain the command to resume.
    is_reported = isinstance(error, (KeyboardInterrupt, CannotWriteError))
    iteration = agent.state.counters["iteration"]
    if iteration == 0:
        if not (is_reported or isinstance(error, TooManyFailures)):
            log(
                "stopped by an error before iteration 1 was finished. After fixing the error: "
                f"{resume_with}"
            )
        return
    # A further stop signal changes nothing in a run that one has stopped.
    ignored = (KeyboardInterrupt,) if isinstance(error, KeyboardInterrupt) else ()
    with contextlib.suppress(*ignored), signals_held():
        # Save the last finished iteration.
        try:
            save_state(run, agent, best)
        except CannotWriteError as failure:
            if is_reported:
                raise
            log(f"iteration {iteration} could not be saved: {failure}")
            return
        # Log how to continue.
        if isinstance(error, TooManyFailures):  # resumed, the run would fail in the same way
            log(
                f"iteration {iteration} is saved. Continue from it with other settings: "
                f"{new_run_command(run)} ..."
            )
        elif not is_reported:
            log(f"stopped by an error; iteration {iteration} is saved. Resume with: {resume_with}")


def refuse_adapted_agent(run: Path, checkpoint: Checkpoint) -> None:
    """Raise UserError if ``Agent.save`` wrote the run folder for an adapted agent.

    Args:
        run: the run folder.
        checkpoint: its newest one.
    """
    num_steps = checkpoint.values.get(NUM_ADAPTATION_STEPS, 0)
    if num_steps:
        raise UserError(
            f"{run} holds an agent after {counted(num_steps, 'adaptation step')}, not a run to "
            f"resume. Start a new run from it with: {new_run_command(run)} ..."
        )


def restored_state(run: Path, newest: NewestCheckpoint, agent: Agent) -> LearnerState:
    """Return the training state in a checkpoint.

    Args:
        run: the run folder.
        newest: its newest sound checkpoint.
        agent: of the run's settings, before training.

    Raises:
        UserError: if the checkpoint belongs to another run, or does not fit.
    """
    checkpoint = newest.checkpoint
    checkpoint.check_run(_origin(agent.config))
    check_actions(checkpoint, agent.action_space)
    state = restored(checkpoint, agent.learner).state
    entries = read_history(run, checkpoint, agent.device)
    for name, entry in entries.items():
        agent.learner.check_history_entry(entry, history_file(run, name))
    return state._replace(history=tuple(entries.values()))


def _origin(config: Config) -> dict[str, str]:
    """Return the values by which a checkpoint identifies its run."""
    return {**origin(config), "outer step": config.outer.name}
