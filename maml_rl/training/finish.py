"""The final evaluation of a run, and its videos."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from maml_rl.agents.agent import Agent
from maml_rl.analysis.evaluation import NUM_TASKS, default_num_steps, evaluate
from maml_rl.analysis.evaluation_result import Evaluation
from maml_rl.analysis.recording import NUM_ROWS, play
from maml_rl.analysis.statistics import mean_of_valid
from maml_rl.analysis.video.files import whole_file
from maml_rl.analysis.video.rendering import rendering_problem
from maml_rl.errors import one_line
from maml_rl.runs.progress_log import AnimatedImage, log_final
from maml_rl.settings.config import Config
from maml_rl.system.stop_flag import StopFlag
from maml_rl.training.progress import Activity
from maml_rl.training.reporting import evaluate_command, log, progress_bar, took_text
from maml_rl.training.saving import writing


def report_path(run: Path) -> Path:
    """Path of the last file that the final evaluation writes."""
    return run / "evaluation" / "report.html"


def video_path(run: Path) -> Path:
    """Path of the video of the final agent."""
    return run / "videos" / "final.mp4"


def forget_results(run: Path, config: Config) -> None:
    """Remove the results of a shorter run that this one extends; :func:`finish` would keep them.

    Call it before saving the final checkpoint: a run resumed from there only finishes.
    """
    with writing():
        if config.logging.final_evaluation:
            report_path(run).unlink(missing_ok=True)
        if config.logging.final_video:
            video_path(run).unlink(missing_ok=True)


def finish(
    run: Path, config: Config, agent: Agent, stop_flag: StopFlag, can_record: bool | None
) -> None:
    """Evaluate and record the final agent, if the configuration asks for it.

    Args:
        run: the run folder; existing results are kept.
        config: settings of the run.
        agent: after the last iteration.
        stop_flag: checked between the evaluation and the video.
        can_record: result of :func:`check_video`; ``None`` if it has not been called yet.
    """
    if config.logging.final_evaluation:
        _evaluate(run, agent, config.seed)
        stop_flag.check()
    if not config.logging.final_video or video_path(run).exists():
        return
    if can_record is None:
        can_record = check_video(config)
    if can_record:
        _record(run, agent, config.seed)


def _evaluate(run: Path, agent: Agent, seed: int) -> None:
    """Evaluate the agent on fresh tasks, and write tables, figures and a report."""
    report = report_path(run)
    if report.exists():
        log(f"{report} exists and is kept")
        return
    # Imported here because Matplotlib takes long to load.
    from maml_rl.analysis.comparison.compare import Comparison, label_of
    from maml_rl.analysis.comparison.entries import Entry
    from maml_rl.analysis.report.files import write_report

    sizes = f"{NUM_TASKS} tasks, {default_num_steps(agent)} adaptation steps"
    log(f"evaluating {sizes} (--logging.final_evaluation false skips it) ...")
    started_s = time.monotonic()
    with progress_bar(1, unit="evaluation") as bar:
        result = evaluate(agent, seed=seed, progress=Activity(bar))
        bar.leave = False
    comparison = Comparison([Entry(label_of(agent), (run,), (result,), {})])
    with writing():
        command = f"{evaluate_command(run, seed)} (played at the end of training)"
        write_report(report.parent, comparison, command=command)
        log_final(run, agent.state.counters["iteration"], _final_metrics(result))
    tasks, num_episodes = comparison.tasks_text, result.returns.shape[2]
    log(
        f"return on {tasks}, {num_episodes} measured episodes per task and step:\n"
        f"{result.table()}\nwritten to {report.parent}{took_text(started_s)}"
    )


def _final_metrics(result: Evaluation) -> dict[str, float]:
    """The returns and success rates of the printed table, by tag; NaN is left out."""
    success = mean_of_valid(result.task_success, 1)
    columns = {"return": result.mean, "success": success}
    return {
        f"final_evaluation/{name}_after_{k}_steps": float(value)
        for name, values in columns.items()
        for k, value in enumerate(values)
        if not np.isnan(value)
    }


def _record(run: Path, agent: Agent, seed: int) -> None:
    """Record the agent before and after adaptation to tasks that differ."""
    num_panels = NUM_ROWS * (agent.learner.num_adaptation_steps + 1)
    sizes = f"at most {num_panels} panels x {agent.config.horizon} control steps"
    log(f"recording a video of {sizes} (--logging.final_video false skips it) ...")
    started_s = time.monotonic()
    bar = progress_bar(1, unit="video")
    image = None
    with bar, video_failures_logged(agent.num_iterations):
        path = video_path(run)
        image = _write_video(path, agent, seed, num_tasks=None, progress=Activity(bar))
        bar.leave = False
        text = f"video of adaptation: {path} (one episode per panel, mean actions)"
        log(f"{text}{took_text(started_s)}")
    if image is not None:
        with writing():
            log_final(run, agent.state.counters["iteration"], {"videos/final": image})


def check_video(config: Config) -> bool:
    """Return whether videos are configured and possible; if not possible, log the reason."""
    if not (config.logging.final_video or config.logging.video_every):
        return False
    problem = (
        "a policy whose observation includes the task (env.observe_task) cannot be recorded"
        if config.env.observe_task
        else rendering_problem(config.env)
    )
    if problem is not None:
        log(f"no video will be made: {problem}")
    return problem is None


def record_iteration(run: Path, agent: Agent, seed: int) -> dict[str, AnimatedImage]:
    """Write a video of the agent into the run folder; log a failure.

    Returns:
        The tag in TensorBoard and a small version of the video; empty after a failure.
    """
    with video_failures_logged(agent.num_iterations):
        path = run / "videos" / f"{agent.num_iterations:06d}.mp4"
        return {"videos/adaptation": _write_video(path, agent, seed, num_tasks=1)}
    return {}  # after a failure, which has been logged


def _write_video(
    path: Path,
    agent: Agent,
    seed: int,
    num_tasks: int | None,
    progress: Callable[[str], None] = lambda panel: None,
) -> AnimatedImage:
    """Write a video of the agent before and after adaptation; return a small version of it.

    Args:
        path: path of the video.
        agent: the agent to adapt.
        seed: of tasks and episodes.
        num_tasks: number of tasks to draw; default is some that differ.
        progress: called with the name of each panel.
    """
    with whole_file(path) as file:
        grid = play(agent, "mp4", seed=seed, num_tasks=num_tasks, progress=progress)
        grid.save(file)
    return AnimatedImage(*grid.small_gif())


@contextlib.contextmanager
def video_failures_logged(iteration: int | None) -> Iterator[None]:
    """Suppress any error inside the context, and log it as the reason why there is no video."""
    try:
        yield
    except Exception as error:
        reason = one_line(str(error)) or type(error).__name__
        log(f"no video of iteration {iteration}: {reason}")
