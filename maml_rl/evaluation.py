"""How fast does a policy adapt? Returns after 0, 1, ... K inner steps on tasks drawn afresh."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from maml_rl.adaptation import collect_through_adaptation, sample_tasks
from maml_rl.collection import Collector
from maml_rl.meta_policy import MetaPolicy
from maml_rl.protocols import Task
from maml_rl.random_streams import Phase, RandomStreams
from maml_rl.task_vector_env import EnvConfig, as_task_vector_env, resolve_env_id

_NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of N tasks after each adaptation step.

    Args:
        tasks: N of them.
        returns: (K + 1, N, E): after step k, task i, episode j; NaN where the simulation broke down.
        description: what was evaluated, for the files.
    """

    tasks: Sequence[Task]
    returns: np.ndarray
    description: dict[str, object]

    @property
    def task_returns(self) -> np.ndarray:
        """Mean over each task's episodes, (K + 1, N)."""
        return np.nanmean(self.returns, axis=2)

    @property
    def mean(self) -> np.ndarray:
        """Mean over tasks after each step, (K + 1,)."""
        return self.task_returns.mean(axis=1)

    @property
    def interval(self) -> np.ndarray:
        """95 % percentile-bootstrap interval of the mean over tasks, (K + 1, 2); the resampling is seeded."""
        num_tasks = self.task_returns.shape[1]
        chosen = np.random.default_rng(0).integers(num_tasks, size=(_NUM_RESAMPLES, num_tasks))
        return np.percentile(self.task_returns[:, chosen].mean(axis=2), [2.5, 97.5], axis=1).T

    def table(self) -> str:
        """The result as text."""
        lines = [f"{'steps':>5}  {'return':>10}  {'95 % interval over tasks':>26}  {'std over tasks':>14}"]
        for k, (mean, (low, high)) in enumerate(zip(self.mean, self.interval, strict=True)):
            spread = self.task_returns[k].std()
            lines.append(f"{k:>5}  {mean:>10.1f}  {f'[{low:.1f}, {high:.1f}]':>26}  {spread:>14.1f}")
        return "\n".join(lines)

    def save(self, folder: str | Path) -> None:
        """Write ``results.json`` and ``adaptation.png``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        per_task = [
            {"task": dict(task), "returns": self.task_returns[:, i].tolist()} for i, task in enumerate(self.tasks)
        ]
        content = {
            **self.description,
            "return": self.mean.tolist(),
            "interval_95": self.interval.tolist(),
            "std_over_tasks": self.task_returns.std(axis=1).tolist(),
            "num_void_episodes": int(np.isnan(self.returns).sum()),
            "tasks": per_task,
        }
        (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n")
        self._plot(folder / "adaptation.png")

    def _plot(self, path: Path) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        steps = np.arange(len(self.mean))
        axes.plot(steps, self.task_returns, color="tab:blue", alpha=0.15, linewidth=0.8)
        axes.errorbar(steps, self.mean, np.abs(self.interval.T - self.mean), color="tab:blue", marker="o", capsize=4)
        axes.set(xlabel="adaptation steps", ylabel="return", xticks=steps)
        axes.set_title(f"{self.description.get('env')}: {len(self.tasks)} tasks, mean and 95 % interval", fontsize=10)
        axes.grid(alpha=0.3)
        figure.savefig(path, dpi=150)


def evaluate_with(
    collector: Collector,
    policy: MetaPolicy,
    num_steps: int,
    streams: RandomStreams,
    env_settings: Mapping[str, object] | None = None,
) -> Evaluation:
    """Evaluate on fresh tasks, one for each of the collector's T.

    Args:
        collector: plays T tasks, E episodes each.
        policy: what to adapt.
        num_steps: K; each step uses fresh episodes, and they are also what the return after step k is measured on.
        streams: of tasks and episodes.
        env_settings: arguments of the collector's environment, for the description; default is the policy's own.
    """
    env_settings = policy.config.env.kwargs if env_settings is None else env_settings
    tasks = sample_tasks(collector, streams)
    inner = replace(policy.config.inner, num_steps=num_steps)
    episodes, _ = collect_through_adaptation(
        collector, policy.theta, tasks, inner, policy.config.baseline, streams=streams, normalizer=policy.normalizer
    )
    returns = np.stack([collected.returns.cpu().numpy() for collected in episodes])
    description = {
        "env": policy.config.env.name,
        "env_settings": dict(env_settings),
        "num_tasks": collector.num_tasks,
        "num_episodes": collector.num_episodes,
        "horizon": collector.horizon,
        "step_size": list(inner.test_step_sizes) or inner.step_size,
        "seed": streams.seed,
    }
    return Evaluation(tasks, returns, description)


def held_out(env: EnvConfig) -> EnvConfig:
    """The environment on tasks that training did not draw, where a task family keeps some back by its ``split``."""
    keeps_back = resolve_env_id(env.name).startswith("maml_rl/") and env.kwargs.get("split") == "train"
    return replace(env, kwargs={**env.kwargs, "split": "held_out"}) if keeps_back else env


def evaluate(
    policy: MetaPolicy,
    *,
    env: EnvConfig | None = None,
    num_tasks: int = 40,
    num_episodes: int = 20,
    num_steps: int = 3,
    seed: int = 0,
) -> Evaluation:
    """Evaluate a policy on fresh tasks.

    Args:
        policy: what to adapt.
        env: where; default is the policy's own environment, on its held-out tasks where the family keeps some back.
        num_tasks: tasks.
        num_episodes: per task and adaptation step.
        num_steps: inner steps.
        seed: of tasks and episodes.
    """
    horizon, streams = policy.config.horizon, RandomStreams(seed, Phase.EVALUATION)
    config = held_out(policy.config.env) if env is None else env
    with as_task_vector_env(None, config, num_tasks * config.side_by_side(num_episodes), horizon) as envs:
        policy.check_spaces(envs.single_observation_space, envs.single_action_space)
        collector = Collector(envs, policy.policy, num_tasks, num_episodes, horizon, policy.action_map, policy.device)
        return evaluate_with(collector, policy, num_steps, streams, config.kwargs)
