"""A training run from its configuration to its last file."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from maml_rl.agents.agent import MetaPolicy
from maml_rl.agents.policy_checkpoint import policy_state, policy_tensors
from maml_rl.analysis.evaluation import evaluate, evaluate_with
from maml_rl.analysis.recording import play, record, rendering_problem
from maml_rl.analysis.video_grid import remove_unfinished, whole_file
from maml_rl.errors import UserError
from maml_rl.learners.maml.learner import MetaTrainer, TrainingState
from maml_rl.learners.maml.metrics import per_stage
from maml_rl.learners.maml.outer import check_state
from maml_rl.runs.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_newest,
    remove_leftovers,
    save_checkpoint,
    set_aside,
)
from maml_rl.runs.progress_log import AnimatedImage, AppendingCSV, make_logger, sync_metrics
from maml_rl.runs.run_folder import (
    create_run_folder,
    locked,
    new_default_folder,
    run_config,
    write_config,
)
from maml_rl.sampling.episodes import success_of_all
from maml_rl.sampling.failures import Failure, TooManyFailures, summary
from maml_rl.sampling.single_env import close_env
from maml_rl.settings.config import Config, origin, to_mapping
from maml_rl.settings.env import is_family, registered_horizon
from maml_rl.system.distributed import Ranks, joined, remember_run_folder, remembered_run_folder
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.stop_signals import StopSignal, stop_signals_raise, stop_signals_wait
from maml_rl.system.text import counted
from maml_rl.system.torch_runtime import resolve_device, standard_torch
from maml_rl.system.user_paths import user_path
from maml_rl.training.compose import open_trainer

Say = Callable[[str], None]


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal; ``run`` can be resumed.

    ``except Exception``, as around a run of a sweep, does not catch it.
    """

    def __init__(self, run: Path, iteration: int, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped after iteration {iteration}. {_advice(run)}")
        self.run = run
        self.exit_status = 128 + number
        """As a shell tells the signal: 130 for Ctrl-C, 143 for SIGTERM."""


class _CannotWriteError(Exception):
    """A file of the run could not be written."""


@standard_torch()
def train(config: Config, *, say: Say = lambda text: None, progress_bar: bool = False) -> Path:
    """Meta-train, as ``python -m maml_rl.train`` does.

    Args:
        config: of the run.
        say: where to tell the user what happens; default is nowhere.
        progress_bar: show one on stderr.

    Returns:
        The run folder; :func:`maml_rl.load` reads it.

    Raises:
        UserError: something in the configuration cannot be used; then no file was made.
        UserError: the run folder cannot be written any more, as on a full disk; the last checkpoint
            stays.
        Interrupted: by Ctrl-C, SIGTERM or SIGHUP; a checkpoint was written.
        TooManyFailures: numbers went wrong too often; the last finished iteration is saved, as
            after any other error.
    """
    if not isinstance(config, Config):
        raise UserError(
            f"train takes a Config, as maml_rl.load_config(env=...) makes one; got {config!r:.100}"
        )
    mapping = to_mapping(
        config
    )  # before anything is opened or made: it refuses what config.yaml cannot hold
    with joined(resolve_device(config.device)) as ranks:
        made = remembered_run_folder()
        if made is not None:
            return _resume(ranks, Path(made), None, say, progress_bar)
        output = user_path(config.output) if config.output else None
        with open_trainer(config, ranks) as opened:
            if not ranks.leads:
                return _follow(config, *opened)
            run = output or new_default_folder(config.env.name, config.seed)
            create_run_folder(run, mapping)
            remember_run_folder(str(run.resolve()))
            with locked(run):
                return TrainingRun(config, run, *opened).train(say, progress_bar)


@standard_torch()
def resume(
    run: str | Path,
    num_iterations: int | None = None,
    *,
    say: Say = lambda text: None,
    progress_bar: bool = False,
) -> Path:
    """Go on with a run from its last checkpoint (or from the start where there is none); see :func:`train`.

    Args:
        run: its folder.
        num_iterations: where to end; default is the run's own. More than that extends the run.
        say: where to tell the user what happens.
        progress_bar: show one on stderr.
    """
    run = user_path(run)
    with joined(resolve_device(run_config(run).device)) as ranks:
        return _resume(ranks, run, num_iterations, say, progress_bar)


def _resume(
    ranks: Ranks, run: Path, num_iterations: int | None, say: Say, progress_bar: bool
) -> Path:
    config = run_config(run)
    if num_iterations is not None:
        try:
            config = dataclasses.replace(config, num_iterations=num_iterations)
        except ValueError as error:
            raise UserError(str(error)) from error
    with locked(run) if ranks.leads else contextlib.nullcontext():
        checkpoints = run / "checkpoints"
        found = load_newest(checkpoints, resolve_device(config.device))
        adapted = 0 if found is None else found.checkpoint.values.get("num_adaptation_steps", 0)
        if adapted:
            raise UserError(
                f"{run} holds a policy after {counted(adapted, 'adaptation step')}, and no run to "
                f"go on with: start a "
                f"new one from it by --init_from {shlex.quote(str(run))}"
            )
        # A checkpoint holds all that a warm start once gave; the run that it came from may be gone.
        start = config if found is None else dataclasses.replace(config, init_from=None)
        with open_trainer(start, ranks) as opened, _unwritable_told(run):
            resumed = TrainingRun(config, run, *opened)
            if found is not None:
                resumed.restore(found.path, found.checkpoint)
            ranks.wait()  # until every process has read it
            if not ranks.leads:
                return _follow(config, resumed.trainer, resumed.state, resumed.policy)
            with _writing():
                remove_leftovers(checkpoints)
                for damaged in found.damaged if found is not None else ():
                    say(f"{damaged}; set aside as {set_aside(damaged.path)}")
            done = resumed.state.iteration
            if done < config.num_iterations:
                with _writing():
                    write_config(run, to_mapping(config))
                say(f"resuming {run} after iteration {done}")
            else:
                more = (
                    f"; --num_iterations {done + 2} would add two"
                    if num_iterations is not None
                    else ""
                )
                say(f"all {done} iterations of {run} are done{more}")
            return resumed.train(say, progress_bar)


def _follow(config: Config, trainer: MetaTrainer, state: TrainingState, policy: MetaPolicy) -> Path:
    """Take part in the iterations of a run that another process leads, and writes."""
    every = config.logging.evaluate_every
    with stop_signals_raise() as raise_dropped:
        while state.iteration < config.num_iterations:
            raise_dropped()
            state = trainer.meta_iteration(state).state
            if every and state.iteration % every == 0:
                _evaluation_metrics(trainer, policy, state)
    return Path()


def _policy_of(policy: MetaPolicy, state: TrainingState) -> MetaPolicy:
    return dataclasses.replace(
        policy,
        theta=state.theta,
        normalizer=state.normalizer,
        num_iterations=state.iteration,
    )


def _evaluation_metrics(
    trainer: MetaTrainer, policy: MetaPolicy, state: TrainingState
) -> dict[str, float]:
    """Returns on fresh tasks, played on the training environments of all processes."""
    streams = RandomStreams(trainer.seed, Phase.EVALUATION, state.iteration)
    num_steps = max(1, policy.config.inner.num_steps)
    result = evaluate_with(trainer.collector, _policy_of(policy, state), num_steps, streams)
    returns, success = (
        trainer.ranks.gather(torch.from_numpy(values).double().movedim(1, 0))
        for values in (result.returns, result.success)
    )
    rates = per_stage("evaluation/success", success_of_all(success, returns))
    return per_stage("evaluation/return", returns) | rates


@dataclass
class TrainingRun:
    """A run in progress: what is open, and the state after the last finished iteration."""

    config: Config
    folder: Path
    trainer: MetaTrainer
    state: TrainingState
    policy: MetaPolicy

    def restore(self, path: Path, checkpoint: Checkpoint) -> None:
        """Take the state of a checkpoint.

        Raises:
            UserError: it is not one of this run's.
        """
        checkpoint.check_run(self._origin(), path)
        theta, normalizer = policy_state(checkpoint, self.policy.policy, self.config, path)
        outer_state = checkpoint.tensors.get("outer", {})
        check_state(outer_state, theta, self.config.outer, path)
        names = ["iteration", "num_env_steps"]
        if "failed_outer_steps" in checkpoint.values:  # older checkpoints do not count them
            names.append("failed_outer_steps")
        counters = {name: checkpoint.counter(name, path) for name in names}
        self.state = TrainingState(theta, outer_state, normalizer, **counters)

    def _origin(self) -> dict[str, str]:
        return {**origin(self.config), "outer step": self.config.outer.name}

    def checkpoint(self) -> None:
        """Write the state, unless it is on disk already."""
        state, folder = self.state, self.folder / "checkpoints"
        if (folder / f"{state.iteration:06d}").exists():
            return
        tensors = {**policy_tensors(state.theta, state.normalizer), "outer": state.outer_state}
        values = {
            "iteration": state.iteration,
            "num_env_steps": state.num_env_steps,
            "failed_outer_steps": state.failed_outer_steps,
            "run": self._origin(),
        }
        with _writing():
            sync_metrics(
                self.folder
            )  # rows up to a checkpoint are there if it is: resuming writes none of them again
            save_checkpoint(
                folder, state.iteration, tensors, values, self.config.logging.keep_checkpoints
            )

    def train(self, say: Say, progress_bar: bool) -> Path:
        """Iterate to the end, write what the configuration asks for, and return the folder."""
        extended = self.state.iteration < self.config.num_iterations
        with stop_signals_raise() as raise_dropped, _unwritable_told(self.folder):
            try:
                with _writing():
                    remove_unfinished(self.folder / "videos")
                if extended:
                    self._iterate(say, progress_bar, raise_dropped)
                close_env(
                    self.trainer.collector.env, self.config.env.name
                )  # the evaluation makes its own
                self._finish(say, anew=extended)
            except BaseException as error:  # whatever it is, no finished iteration is lost
                self._save_after(error, say)
                if isinstance(error, KeyboardInterrupt):
                    number = error.number if isinstance(error, StopSignal) else signal.SIGINT
                    raise Interrupted(self.folder, self.state.iteration, number) from error
                raise
        return self.folder

    def _save_after(self, error: BaseException, say: Say) -> None:
        """Write the last finished iteration, if there is one."""
        if self.state.iteration == 0:
            if not isinstance(error, (KeyboardInterrupt, _CannotWriteError, TooManyFailures)):
                say(
                    f"stopped by an error in the first iteration. Once it is mended: "
                    f"{_resume_command(self.folder)}"
                )
            return
        told = isinstance(
            error, (KeyboardInterrupt, _CannotWriteError)
        )  # with how to go on, by what is raised
        try:
            with stop_signals_wait():
                self.checkpoint()
        except _CannotWriteError as failure:
            if told:
                raise
            say(f"iteration {self.state.iteration} could not be saved: {failure}")
            return
        if isinstance(error, TooManyFailures):  # resumed, the same would happen again
            new = f"python -m maml_rl.train --init_from {shlex.quote(str(self.folder))}"
            say(
                f"iteration {self.state.iteration} is saved. Go on from it with other settings: "
                f"{new} ..."
            )
        elif not told:
            say(
                f"stopped by an error; iteration {self.state.iteration} is saved. "
                f"{_advice(self.folder)}"
            )

    def _iterate(self, say: Say, progress_bar: bool, raise_dropped: Callable[[], None]) -> None:
        config, logging = self.config, self.config.logging
        self._announce(say)
        can_draw = self._can_draw(say)
        with _writing():
            logger = make_logger(self.folder, self.state.iteration)
            failures = AppendingCSV(
                self.folder / "failures.csv", self.state.iteration, Failure._fields
            )
        bar = tqdm(
            total=config.num_iterations,
            initial=self.state.iteration,
            disable=not progress_bar,
            unit="it",
        )
        try:
            while self.state.iteration < config.num_iterations:
                raise_dropped()
                started = time.perf_counter()
                try:
                    state, metrics, failed = self.trainer.meta_iteration(self.state)
                except TooManyFailures as error:
                    with _writing():  # cut off again if the run is resumed
                        failures.append(self.state.iteration + 1, _rows(error.rows))
                    raise TooManyFailures(f"{config.env.name}: {error}", error.rows) from error
                metrics["time/meta_iteration_s"] = time.perf_counter() - started
                if logging.evaluate_every and state.iteration % logging.evaluate_every == 0:
                    metrics |= _evaluation_metrics(self.trainer, self.policy, state)
                draws = (
                    can_draw and logging.video_every and state.iteration % logging.video_every == 0
                )
                pictures: dict[str, AnimatedImage] = {}
                if draws:
                    with _video_failure_said(lambda text: _beside(bar, say, text), state.iteration):
                        pictures = self._record(state)
                with (
                    stop_signals_wait() as received
                ):  # an iteration is logged, counted and saved, or it never began
                    for name, value in [*metrics.items(), *pictures.items()]:
                        logger.record(name, value)
                    with _writing():
                        failures.append(state.iteration, _rows(failed))
                        logger.dump(state.iteration)
                    self.state = state
                    is_last = state.iteration == config.num_iterations
                    if is_last:
                        self._forget_results()
                    if is_last or state.iteration % logging.checkpoint_every == 0:
                        self.checkpoint()
                if failed:
                    _beside(bar, say, f"iteration {state.iteration}: {summary(failed)}")
                if received:
                    signal.raise_signal(received[0])
                bar.set_postfix_str(_progress(metrics))
                bar.update()
        finally:
            bar.close()
            logger.close()

    def _announce(self, say: Say) -> None:
        config, num_steps = self.config, self.config.training_inner.num_steps
        steps = config.meta_batch_size * config.num_episodes * config.horizon * (num_steps + 1)
        rest = config.num_iterations - self.state.iteration
        number = f"{rest} of " if self.state.iteration else ""
        say(
            f"{config.env.name}: {number}{counted(config.num_iterations, 'meta-iteration')} of "
            f"{counted(config.meta_batch_size, 'task')} x "
            f"{counted(config.num_episodes, 'episode')} x "
            f"{counted(config.horizon, 'step')}{_horizon_source(config)} x "
            f"{counted(num_steps + 1, 'collection')} = "
            f"{steps:,} environment steps each, on {self.policy.device}, into {self.folder}"
        )
        report, _ = self._results()
        if self.state.iteration and config.logging.final_evaluation and report.exists():
            say(f"{report.parent} will be replaced at the end")
        notice = config.outer.notice(num_steps) if hasattr(config.outer, "notice") else None
        if notice:
            say(notice)

    def _can_draw(self, say: Say | None) -> bool:
        """Whether videos are wanted and possible; tells the user why not."""
        if not (self.config.logging.final_video or self.config.logging.video_every):
            return False
        problem = (
            "a policy that is told the task (env.observe_task) cannot be recorded"
            if self.config.env.observe_task
            else rendering_problem(self.config.env)
        )
        if problem is not None and say is not None:
            say(f"no video will be made: {problem}")
        return problem is None

    def _record(self, state: TrainingState) -> dict[str, AnimatedImage]:
        """Write a video of the policy; returns a small one for TensorBoard."""
        with whole_file(self.folder / "videos" / f"{state.iteration:06d}.mp4") as file:
            grid = play(_policy_of(self.policy, state), "mp4", seed=self.config.seed)
            grid.save(file)
        return {"videos/adaptation": AnimatedImage(*grid.small_gif())}

    def _results(self) -> tuple[Path, Path]:
        """The files written last, of the final evaluation and of the video."""
        return self.folder / "evaluation" / "report.html", self.folder / "videos" / "final.mp4"

    def _forget_results(self) -> None:
        """Remove what a run had that is now extended: after a kill it would pass for that of the final policy."""
        report, video = self._results()
        with _writing():
            if self.config.logging.final_evaluation:
                report.unlink(missing_ok=True)
            if self.config.logging.final_video:
                video.unlink(missing_ok=True)

    def _finish(self, say: Say, anew: bool) -> None:
        """Evaluate and record the final policy, where the configuration asks for it.

        Args:
            say: where to tell the user what happens.
            anew: after iterations, which have said already why no video can be made.
        """
        policy, seed, logging = (
            _policy_of(self.policy, self.state),
            self.config.seed,
            self.config.logging,
        )
        report, video = self._results()
        if logging.final_evaluation and not report.exists():
            from maml_rl.analysis.comparison import META_TRAINED, Comparison, Entry
            from maml_rl.analysis.report import (
                write_report,
            )  # here, since Matplotlib takes its time to load

            say("evaluating on fresh tasks (as logging.final_evaluation says) ...")
            result = evaluate(policy, seed=seed)
            with _writing():
                write_report(
                    report.parent, Comparison([Entry(META_TRAINED, (self.folder,), (result,), {})])
                )
            sizes = f"{len(result.tasks)} fresh tasks, {result.returns.shape[-1]} episodes per task and step"
            say(f"return on {sizes}:\n{result.table()}\nwritten to {report.parent}")
        elif logging.final_evaluation:
            say(f"{report} is there already, and stays")
        if logging.final_video and not video.exists() and self._can_draw(None if anew else say):
            say("recording a video ...")
            shown = "an episode a panel, the most probable actions"
            with _video_failure_said(say, self.state.iteration):
                say(f"video of an adapted policy: {record(policy, video, seed=seed)} ({shown})")


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Tell a failure to write from errors of the same type that a user's environment may raise."""
    try:
        yield
    except OSError as error:
        raise _CannotWriteError(str(error)) from error


@contextlib.contextmanager
def _video_failure_said(say: Say, iteration: int) -> Iterator[None]:
    """Continue without a video where none can be made, whatever the reason."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"no video of iteration {iteration}: {reason}")


def _beside(bar: tqdm[Any], say: Say, text: str) -> None:
    """Say something while a progress bar is shown."""
    with bar.external_write_mode():
        say(text)


@contextlib.contextmanager
def _unwritable_told(run: Path) -> Iterator[None]:
    """Turn a failure to write into one line.

    Raises:
        UserError: in place of it.
    """
    try:
        yield
    except _CannotWriteError as error:
        path = latest_checkpoint(run / "checkpoints")
        last = (
            "there is no checkpoint yet"
            if path is None
            else f"the last checkpoint is of iteration {int(path.name)}"
        )
        raise UserError(f"{run} cannot be written: {error}; {last}. {_advice(run)}") from error


def _horizon_source(config: Config) -> str:
    """Where the horizon of an environment that is not built in comes from; nothing for one that is."""
    if is_family(config.env.name):
        return ""
    registered = registered_horizon(config.env.name)
    if config.horizon == registered:
        return " (its max_episode_steps)"
    other = (
        "it is registered without max_episode_steps"
        if registered is None
        else f"its own are {registered}"
    )
    is_default = registered is None and config.horizon == Config.horizon
    return f" ({'by default' if is_default else 'as set'}; {other})"


def _advice(run: Path) -> str:
    return f"Go on with: {_resume_command(run)}"


def _resume_command(run: Path) -> str:
    return f"python -m maml_rl.train --resume {shlex.quote(str(run))}"


def _rows(failures: Sequence[Failure]) -> list[dict[str, Any]]:
    return [failure.row() for failure in failures]


def _progress(metrics: dict[str, float]) -> str:
    returns = [value for name, value in metrics.items() if name.startswith("train/return_after_")]
    return "return " + " -> ".join(f"{value:.1f}" for value in returns)
