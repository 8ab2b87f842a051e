"""The root configuration: everything that a run depends on, with its defaults."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from maml_rl.settings.env import ENV_SETTINGS, EnvConfig
from maml_rl.settings.maml import (
    OUTER_CONFIGS,
    BaselineConfig,
    InnerConfig,
    OuterConfig,
    TRPOConfig,
)
from maml_rl.settings.policy import PolicyConfig
from maml_rl.settings.ranges import OrNone, Range, Real, Whole, check_ranges
from maml_rl.system.safe_yaml import check_plain

MOST_ITERATIONS = 10**9
_MOST_STEPS = 10**9  # of a collection, each of which takes a hundred bytes or more


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What is written while training, and at its end."""

    checkpoint_every: int = 10
    """Meta-iterations between checkpoints."""
    keep_checkpoints: int = 3
    """The newest checkpoints that stay; 0 for all."""
    evaluate_every: int = 0
    """Meta-iterations between evaluations on fresh tasks; 0 for none before the end."""
    video_every: int = 0
    """Meta-iterations between videos; 0 for none before the end."""
    final_evaluation: bool = True
    """Evaluate the final policy on fresh tasks."""
    final_video: bool = True
    """Record the final policy before and after adaptation."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "checkpoint_every": Whole(1, MOST_ITERATIONS),
        "keep_checkpoints": Whole(0, MOST_ITERATIONS),
        "evaluate_every": Whole(0, MOST_ITERATIONS),
        "video_every": Whole(0, MOST_ITERATIONS),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "logging.")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A meta-training run."""

    seed: int = 0
    """Seed of every random stream."""
    device: str = "auto"
    """Where policies live: cpu, cuda, cuda:1, ..., or auto for a GPU if there is one."""
    torch_threads: int | None = None
    """Torch's threads in the learner; another number may change last bits. Default: OMP_NUM_THREADS, or all cores."""
    tasks_per_block: int | None = None
    """Tasks that the outer step handles at once: fewer take less memory. Default: 4, on a GPU 64."""
    output: str | None = None
    """The run folder; default is runs/FAMILY/date-time-seed."""
    num_iterations: int = 300
    """Meta-iterations in all, with those before a resume."""
    meta_batch_size: int = 40
    """Tasks per meta-iteration."""
    num_episodes: int = 20
    """Episodes per task and adaptation step."""
    horizon: int = 100
    """Control steps after which an episode is truncated. Default: the environment's own, or 100 where it has none."""
    max_failed_share: float = 0.25
    """Share of void episodes, or of failed tasks, above which an iteration or an evaluation stops (reliability.md)."""
    init_from: str | None = None
    """Run whose final meta-parameters training starts from."""
    adapt_in_training: bool = True
    """Adapt while training; without, one policy is trained on all tasks jointly, and inner is how it is fine-tuned."""
    env: EnvConfig = EnvConfig()
    """The environment and its arguments."""
    policy: PolicyConfig = PolicyConfig()
    """The policy."""
    inner: InnerConfig = InnerConfig()
    """Adaptation."""
    outer: OuterConfig = TRPOConfig()
    """Settings of the outer step; their class says which one."""
    baseline: BaselineConfig = BaselineConfig()
    """Returns and advantages."""
    logging: LoggingConfig = LoggingConfig()
    """What is written."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "seed": Whole(0, (1 << 63) - 1),
        "num_iterations": Whole(1, MOST_ITERATIONS),
        "torch_threads": OrNone(Whole(1, 1024)),
        "tasks_per_block": OrNone(Whole(1, 1_000_000)),
        "max_failed_share": Real(0, 1),
        **dict.fromkeys(("meta_batch_size", "num_episodes", "horizon"), Whole(1, 1_000_000)),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "")
        num_steps = self.meta_batch_size * self.num_episodes * self.horizon
        if num_steps > _MOST_STEPS:
            raise ValueError(
                f"meta_batch_size {self.meta_batch_size} x num_episodes {self.num_episodes} x "
                f"horizon {self.horizon} "
                f"must be at most {_MOST_STEPS} control steps, got {num_steps}"
            )
        if (self.inner.adapts == "context") != (self.policy.context_size > 0):
            raise ValueError(
                f"inner.adapts is {self.inner.adapts!r} and policy.context_size "
                f"{self.policy.context_size}: a "
                "context that adapts has a size of at least 1, and there is none otherwise"
            )
        if not self.adapt_in_training and self.inner.learned_step_size != "none":
            raise ValueError(
                "inner.learned_step_size must be none where adapt_in_training is false: nothing "
                "learns it"
            )
        if not self.adapt_in_training and self.outer.name == "reptile":
            raise ValueError(
                "outer reptile follows adaptation: choose another where adapt_in_training is false"
            )
        if type(self.outer) not in OUTER_CONFIGS.values():
            names = [config.__name__ for config in OUTER_CONFIGS.values()]
            raise ValueError(f"outer must be one of {names}, got {self.outer!r}")

    @property
    def training_inner(self) -> InnerConfig:
        """How training adapts."""
        num_steps = self.inner.num_steps if self.adapt_in_training else 0
        return dataclasses.replace(self.inner, num_steps=num_steps, test_step_sizes=())


def origin(config: Config) -> dict[str, str]:
    """What a checkpoint of the run must have come from; parameters are compared besides, by name and shape."""
    return {"environment": config.env.name.rpartition(":")[2]}  # a module may move


def to_mapping(config: Config) -> dict[str, Any]:
    """Plain nested dictionaries, as in config.yaml.

    The arguments of the environment and of the outer step stand in their group beside its ``name``.
    Where one of the environment's is called like a setting, all of them are in ``env.kwargs``.

    Raises:
        UserError: the settings of the environment hold something that a file cannot; says what, and
            where.
    """
    env, kwargs = config.env, dict(config.env.kwargs)
    values = dataclasses.asdict(dataclasses.replace(config, env=EnvConfig()))
    values["env"] = {
        "name": env.name,
        **(kwargs if kwargs.keys().isdisjoint(ENV_SETTINGS) else {"kwargs": kwargs}),
    }
    if env.vectorization != "sync":
        values["env"]["vectorization"] = env.vectorization
    if env.observe_task:
        values["env"]["observe_task"] = True
    if env.kwarg_ranges:
        values["env"]["kwarg_ranges"] = dict(env.kwarg_ranges)
    if env.task_list:
        values["env"]["task_list"] = list(env.task_list)
    check_plain(values["env"], "env")
    values["env"] = copy.deepcopy(values["env"])
    values["outer"] = {"name": config.outer.name, **values["outer"]}
    values["policy"]["hidden_sizes"] = list(values["policy"]["hidden_sizes"])
    values["inner"]["test_step_sizes"] = list(values["inner"]["test_step_sizes"])
    return values
