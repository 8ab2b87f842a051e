"""A training run in progress: iterate, save, stop, end."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from maml_rl.analysis.video.files import remove_unfinished
from maml_rl.learners.base import Iteration
from maml_rl.runs.checkpoint_files import Best
from maml_rl.runs.progress_log import AnimatedImage, AppendingCSV, ProgressLog
from maml_rl.runs.progress_table import SECONDS, STEPS
from maml_rl.sampling.failures import FAILURE_COLUMNS, Failure, TooManyFailures, summary
from maml_rl.sampling.single_env import close_env
from maml_rl.settings.config import Config, to_mapping
from maml_rl.system.stop_flag import StopFlag, signals_held
from maml_rl.training.callbacks import (
    Callback,
    RunInProgress,
    notify,
    notify_of_iteration,
)
from maml_rl.training.compose import Training
from maml_rl.training.finish import (
    check_video,
    finish,
    forget_results,
    record_iteration,
    report_path,
)
from maml_rl.training.progress import Activity, Pace
from maml_rl.training.reporting import (
    Announced,
    Interrupted,
    log,
    log_pace,
    log_start,
    make_pace,
    progress_bar,
    progress_text,
    time_left,
    took_text,
)
from maml_rl.training.saving import (
    CannotWriteError,
    better_of,
    save_after,
    save_state,
    write_failures_reported,
    writing,
)


class _Outputs(NamedTuple):
    """The files and the progress bar that iterations report to, and their pace."""

    progress: ProgressLog
    failures: AppendingCSV
    bar: tqdm[Any]
    pace: Pace


class TrainingRun:
    """A run in progress.

    Args:
        folder: the run folder.
        config: settings of the run.
        training: what iterations need, with the agent to start from.
        stop_flag: checked between the stages of an iteration.
        callbacks: called at the start, after each iteration and at the end.
        best: the best iteration so far, if the run keeps it (``logging.keep_best``).
        has_ended: whether the training state is that of the end of a run, after the learner's
            choice.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        training: Training,
        stop_flag: StopFlag,
        callbacks: Sequence[Callback],
        best: Best | None = None,
        has_ended: bool = False,
    ) -> None:
        self.folder = folder
        self.config = config
        self.training = training
        self.stop_flag = stop_flag
        self.callbacks = callbacks
        self.run = RunInProgress(folder, config, training.agent)
        self.best = best
        self.has_ended = has_ended

    @property
    def iteration(self) -> int:
        """Iterations finished."""
        return self.training.iteration

    def train(self) -> Path:
        """Run the remaining iterations, then evaluate and record; return the folder."""
        with self.stop_flag.handling(), write_failures_reported(self.folder):
            try:
                with writing():
                    remove_unfinished(self.folder / "videos")
                notify(self.callbacks, "on_start", self.run)
                can_record = None
                if not self._is_over():
                    self._log_start()
                    can_record = check_video(self.config)
                    self._iterate(can_record)
                    if self.best is not None:
                        number, value = self.best
                        log(f"best evaluation in training: {value:.1f} after iteration {number}")
                if self.run.stop_reason is not None:
                    log(f"ended after iteration {self.iteration}: {self.run.stop_reason}")
                if not self.has_ended:
                    self._end()
                # Free the training environment: the evaluation makes its own.
                close_env(self.training.collector.env, self.config.env.name)
                finish(self.folder, self.config, self.training.agent, self.stop_flag, can_record)
                notify(self.callbacks, "on_end", self.run)
            except BaseException as error:  # also KeyboardInterrupt: save the finished iterations
                save_after(error, self.folder, self.training.agent, self.best)
                if isinstance(error, KeyboardInterrupt):
                    number = getattr(error, "number", signal.SIGINT)
                    is_last = self.iteration >= self.config.num_iterations
                    has_ended = self.has_ended and is_last
                    raise Interrupted(
                        self.folder, self.iteration, number, has_ended=has_ended
                    ) from error
                raise
        return self.folder

    def _log_start(self) -> None:
        """Log the size of the run, and results that it will replace."""
        config = self.config
        log_start(config, self.training.agent, self.folder)
        report = report_path(self.folder)
        if self.iteration and config.logging.final_evaluation and report.exists():
            log(f"{report.parent} will be replaced at the end")

    def _iterate(self, can_record: bool) -> None:
        """Iterate to the end, or until a stop signal; the first iteration is due."""
        with self._outputs() as outputs, self.stop_flag.deferred():
            self.training = self.training.with_progress(Activity(outputs.bar))
            while True:
                self.stop_flag.check()
                self._iteration(outputs, can_record)
                if self._is_over():
                    return

    def _is_over(self) -> bool:
        is_stopped = self.run.stop_reason is not None
        return _is_over(self.training, self.config, self.stop_flag, is_stopped)

    def _end(self) -> None:
        """Let the learner choose what it chooses after training, and save the last checkpoint."""
        before = self.training.agent.state
        started_s = time.monotonic()
        bar = progress_bar(1, unit="choice", delay_s=1.0)
        with bar, self.stop_flag.deferred(), _errors_of_stopping(self.stop_flag):
            training = self.training.with_progress(Announced(Activity(bar))).ended()
            bar.leave = False
        # Save the choice; hold signals until that is done
        with signals_held():
            forget_results(self.folder, self.config)
            state = training.agent.state
            save_state(self.folder, training.agent, self.best, is_final=True)
            self.training = training
            self.run.agent = training.agent
            self.has_ended = True
            note = training.agent.learner.describe(state).get("note")
            if state is not before and note:
                log(f"{note}{took_text(started_s)}")

    @contextlib.contextmanager
    def _outputs(self) -> Iterator[_Outputs]:
        """Open the files and the progress bar that iterations report to."""
        num_finished = self.iteration
        with writing():
            progress = ProgressLog(self.folder, num_finished, to_mapping(self.config))
            path = self.folder / "failures.csv"
            failures = AppendingCSV(path, num_finished, FAILURE_COLUMNS)
        pace = make_pace(self.config, self.training.agent)
        bar = progress_bar(pace.total, initial=num_finished, unit="it")
        try:
            yield _Outputs(progress, failures, bar, pace)
        finally:
            bar.close()

    def _iteration(self, outputs: _Outputs, can_record: bool) -> None:
        """Run one meta-iteration. If it stops before it is logged, it does not count."""
        logging = self.config.logging

        # Run the learner's iteration; evaluate if due; call the callbacks
        started = time.perf_counter()
        with _errors_of_stopping(self.stop_flag):
            state, metrics, failures = self._learner_iteration(outputs)
            training = self.training.continued(state)
            iteration = training.iteration
            metrics[STEPS] = state.counters["num_env_steps"]
            metrics[SECONDS] = time.perf_counter() - started
            if _is_due(iteration, logging.evaluate_every):
                metrics |= training.evaluation_metrics()
            self.run.agent = training.agent
            notify_of_iteration(self.callbacks, self.run, metrics)
            best = self._best_after(training, metrics)

        # Record a video if due; a stop signal interrupts it, since it may take long
        images: dict[str, AnimatedImage] = {}
        if can_record and _is_due(iteration, logging.video_every):
            with self.stop_flag.immediate():
                images = record_iteration(self.folder, training.agent, self.config.seed)

        # Log, count and save the iteration; hold signals until that is done
        with signals_held():
            with writing():
                outputs.failures.append(iteration, _rows(failures))
                outputs.progress.write(iteration, metrics, images)
            self.training = training
            self.has_ended = False
            is_best, self.best = best != self.best, best
            is_stopped = self.run.stop_reason is not None
            is_last = is_stopped or iteration == self.config.num_iterations
            # The last state is saved after the learner's choice.
            if not is_last and (is_best or _is_due(iteration, logging.checkpoint_every)):
                save_state(self.folder, training.agent, best)
            if failures:
                log(f"iteration {iteration}: {summary(failures)}")

        # Show the result
        progress = progress_text(metrics)
        outputs.pace.count(state.counters["num_env_steps"])
        log_pace(outputs.pace)
        if outputs.bar.disable and (is_last or _is_due(iteration, logging.checkpoint_every)):
            text = f"iteration {iteration} of {outputs.pace.total_text}"
            returns = f": {progress}" if progress else ""
            log(f"{text}{returns}{time_left(outputs.pace)}")
        outputs.bar.total = outputs.pace.total
        outputs.bar.set_postfix_str(progress)
        outputs.bar.update()

    def _best_after(self, training: Training, metrics: Mapping[str, float]) -> Best | None:
        """The best iteration so far, with one that may have been evaluated; None if not kept."""
        logging, iteration = self.config.logging, training.iteration
        if not (logging.keep_best and _is_due(iteration, logging.evaluate_every)):
            return self.best
        name = f"evaluation/return_after_{training.num_evaluated_steps}_steps"
        return better_of(self.best, iteration, metrics.get(name, math.nan))

    def _learner_iteration(self, outputs: _Outputs) -> Iteration:
        """Run the learner's iteration; write failures.csv if too many failures stop it."""
        try:
            return self.training.iterate()
        except TooManyFailures as error:
            with writing():  # resuming removes these rows
                outputs.failures.append(self.iteration + 1, _rows(error.rows))
            raise TooManyFailures(f"{self.config.env.name}: {error}", error.rows) from error


def follow(config: Config, training: Training, stop_flag: StopFlag, has_ended: bool) -> Path:
    """Run iterations and end in a process that writes no files; return an empty path.

    Args:
        config: settings of the run.
        training: what iterations need.
        stop_flag: checked between the stages of an iteration.
        has_ended: whether the state is that of the end of a run, after the learner's choice.

    Raises:
        StopSignal: on a stop signal, or if process 0 stops the run.
        TooManyFailures: if too many episodes, tasks or outer steps failed.
    """
    with stop_flag.handling(), stop_flag.deferred():
        while not _is_over(training, config, stop_flag):
            stop_flag.check()
            with _errors_of_stopping(stop_flag):
                training = training.continued(training.iterate().state)
                has_ended = False
                if _is_due(training.iteration, config.logging.evaluate_every):
                    training.evaluation_metrics()  # process 0 gathers its share
        if not has_ended:
            with _errors_of_stopping(stop_flag):
                training.ended()
    return Path()


@contextlib.contextmanager
def _errors_of_stopping(stop_flag: StopFlag) -> Iterator[None]:
    """Treat an error after a stop signal as a stop.

    The signal may also have ended worker processes, and the error may be a consequence.

    Raises:
        StopSignal: in place of an error, if a signal has been received. TooManyFailures and
            CannotWriteError are raised unchanged.
    """
    try:
        yield
    except (TooManyFailures, CannotWriteError):
        raise
    except Exception:
        stop_flag.check()
        raise


def _is_over(
    training: Training, config: Config, stop_flag: StopFlag, is_stopped: bool = False
) -> bool:
    """Whether there is no further iteration; called in all processes before each iteration.

    Args:
        training: after the last iteration.
        config: settings of the run.
        stop_flag: an error after a stop signal is a stop.
        is_stopped: whether a callback has stopped the run in this process.
    """
    if training.iteration >= config.num_iterations:
        return True
    with _errors_of_stopping(stop_flag):
        return bool(training.ranks.sum(torch.tensor([float(is_stopped)])))


def _is_due(iteration: int, every: int) -> bool:
    """Whether ``iteration`` is a multiple of ``every``; never if ``every`` is 0."""
    return every > 0 and iteration % every == 0


def _rows(failures: Sequence[Failure]) -> list[dict[str, Any]]:
    return [failure.row() for failure in failures]
