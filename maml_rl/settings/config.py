"""The root configuration: everything that a run depends on, with its defaults."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from maml_rl.settings.env import ENV_SETTINGS, EnvConfig
from maml_rl.settings.learners import (
    LEARNER_GROUPS,
    BaselineConfig,
    InnerConfig,
    LearnerConfig,
    MAMLConfig,
    OuterConfig,
    TRPOConfig,
    episodes_per_stage,
    hint_of_group,
    learner_class,
)
from maml_rl.settings.policy import PolicyConfig
from maml_rl.settings.ranges import (
    Each,
    Integer,
    ObjectName,
    OrNone,
    Positive,
    Range,
    Real,
    check_ranges,
)
from maml_rl.system.safe_yaml import check_plain, plain_values
from maml_rl.system.text import counted

Engine = Literal["auto", "mujoco", "warp"]

MOST_ITERATIONS = 10**9
_MOST_STEPS = 10**9  # per collection; each step takes 100 bytes or more


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Files written during and after training."""

    checkpoint_every: int = 10
    """Meta-iterations between checkpoints."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints to keep; 0 keeps all."""
    evaluate_every: int = 0
    """Meta-iterations between evaluations on fresh tasks; 0 evaluates only at the end."""
    keep_best: bool = False
    """Also keep the checkpoint with the highest return in these evaluations (after adaptation)."""
    video_every: int = 0
    """Meta-iterations between videos; 0 records only at the end."""
    final_evaluation: bool = True
    """Evaluate the final policy on fresh tasks."""
    final_video: bool = True
    """Record the final policy before and after adaptation."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "checkpoint_every": Integer(1, MOST_ITERATIONS),
        "keep_checkpoints": Integer(0, MOST_ITERATIONS),
        "evaluate_every": Integer(0, MOST_ITERATIONS),
        "video_every": Integer(0, MOST_ITERATIONS),
    }

    def __post_init__(self) -> None:
        check_ranges(self, "logging.")
        if self.keep_best and not self.evaluate_every:
            raise ValueError(
                "logging.keep_best needs evaluations in training: set logging.evaluate_every to at "
                "least 1, got 0"
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A meta-training run."""

    seed: int = 0
    """Seed of all random streams."""
    device: str = "auto"
    """Device of the policy: cpu, cuda, cuda:1, ..., or auto for a GPU if there is one."""
    engine: Engine = "auto"
    """Simulator of a task family in training. mujoco: on the CPU. warp: on the policy's device
    (docs/gpu.md; slow on a CPU). auto: warp if the policy is on a GPU, there are at least 8,192
    simulations, and family and learner support it; otherwise mujoco."""
    torch_threads: int | None = None
    """Torch threads of the learner; may change rounding. null: OMP_NUM_THREADS or all cores."""
    tasks_per_block: int | None = None
    """Tasks whose gradient is computed together; fewer need less memory. null: by the learner, more
    on a GPU."""
    output: str | None = None
    """Run folder. null: runs/FAMILY/date-time-seed."""
    num_iterations: int = 300
    """Total meta-iterations, including those before a resume."""
    max_env_steps: int | None = None
    """End the run once it has taken this number of control steps. null: no limit."""
    max_hours: float | None = None
    """End the run after this time, in hours since the start or the last resume. null: no limit."""
    meta_batch_size: int = 40
    """Tasks per meta-iteration."""
    num_episodes: int = 20
    """Episodes per task and adaptation step. No effect on rl2, pearl, rma and sysid: their steps
    are one episode."""
    horizon: int = 100
    """Control steps before an episode is truncated; default: the environment's limit, if any."""
    max_failed_share: float = 0.25
    """Stop if a larger share of episodes is discarded, or of tasks fails (docs/reliability.md)."""
    init_from: str | None = None
    """Start from the final policy of this run: a run folder or a pretrained policy."""
    callbacks: tuple[str, ...] | str = ()
    """Callbacks of your own: module:Name, or a list of such names (docs/callbacks.md)."""
    env: EnvConfig = EnvConfig()
    """The environment and its arguments."""
    learner: LearnerConfig = MAMLConfig()
    """Settings of the learner; their ``name`` selects it."""
    policy: PolicyConfig = PolicyConfig()
    """The policy network."""
    inner: InnerConfig = InnerConfig()
    """Adaptation to a task."""
    outer: OuterConfig = TRPOConfig()
    """Settings of the outer step; their class selects it."""
    baseline: BaselineConfig = BaselineConfig()
    """Returns and advantages."""
    logging: LoggingConfig = LoggingConfig()
    """Files written."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        "seed": Integer(0, (1 << 63) - 1),
        "num_iterations": Integer(1, MOST_ITERATIONS),
        "max_env_steps": OrNone(Integer(1, 10**15)),
        "max_hours": OrNone(Positive()),
        "callbacks": Each(ObjectName(), most=100),
        "torch_threads": OrNone(Integer(1, 1024)),
        "tasks_per_block": OrNone(Integer(1, 1_000_000)),
        "max_failed_share": Real(0, 1),
        **dict.fromkeys(("meta_batch_size", "num_episodes", "horizon"), Integer(1, 1_000_000)),
    }
    GROUP_TYPES: ClassVar[Mapping[str, type]] = {
        "env": EnvConfig,
        "learner": LearnerConfig,
        "policy": PolicyConfig,
        "inner": InnerConfig,
        "outer": OuterConfig,
        "baseline": BaselineConfig,
        "logging": LoggingConfig,
    }

    def __post_init__(self) -> None:
        if isinstance(self.callbacks, str):
            object.__setattr__(self, "callbacks", (self.callbacks,))
        check_ranges(self, "")
        for group, kind in self.GROUP_TYPES.items():
            value = getattr(self, group)
            if not isinstance(value, kind):
                raise ValueError(f"{group} must be of type {kind.__name__}, got {value!r:.200}")
        # What config.yaml holds must be read as the same class
        expected = learner_class(self.learner.name)
        if type(self.learner) is not expected:
            raise ValueError(
                f"learner must be a {expected.__module__}.{expected.__qualname__} if learner.name "
                f"is {self.learner.name!r}, got {self.learner!r:.200}"
            )
        self._check_groups()
        self.learner.check(self)
        num_episodes = episodes_per_stage(self.learner, self.num_episodes)
        num_steps = self.meta_batch_size * num_episodes * self.horizon
        if num_steps > _MOST_STEPS:
            raise ValueError(
                f"meta_batch_size {self.meta_batch_size} x {counted(num_episodes, 'episode')} x "
                f"horizon {self.horizon} must be at most {_MOST_STEPS} control steps, "
                f"got {num_steps}"
            )

    def _check_groups(self) -> None:
        """Refuse settings that the learner does not use, and contradictions of ``inner``.

        Raises:
            ValueError: if there are such settings; the message names them.
        """
        for group in LEARNER_GROUPS:
            if group not in self.learner.GROUPS and getattr(self, group) != getattr(Config, group):
                raise ValueError(
                    f"{group} must be at its default, got {getattr(self, group)!r:.200}."
                    f"{hint_of_group(group, self.learner.name)}"
                )
        needs_context = self.inner.adapts == "context"
        has_context = self.policy.context_size > 0
        if "inner" in self.learner.GROUPS and needs_context and self.policy.network is not None:
            raise ValueError(
                "inner.adapts must not be context if policy.network is set: a context (CAVIA) is "
                "an input of the built-in network"
            )
        if "inner" in self.learner.GROUPS and needs_context != has_context:
            raise ValueError(
                f"inner.adapts is {self.inner.adapts!r} and policy.context_size is "
                f"{self.policy.context_size}: the size must be at least 1 if inner.adapts is "
                f"context, and 0 otherwise"
            )
        self._check_latent()

    def _check_latent(self) -> None:
        """Refuse settings that a latent variable cannot be combined with.

        Raises:
            ValueError: if there are such settings; the message names them.
        """
        if self.policy.latent_size == 0:
            if self.inner.adapts == "latent":
                raise ValueError(
                    "policy.latent_size must be at least 1 if inner.adapts is latent, got 0"
                )
            return
        needs = f"if policy.latent_size is above 0, got {self.policy.latent_size} and"
        if "inner" not in self.learner.GROUPS:
            raise ValueError(
                f"learner.name must be that of a learner with inner steps {needs} "
                f"{self.learner.name}"
            )
        if self.inner.adapts == "context":
            raise ValueError(f"inner.adapts must be all, head or latent {needs} context")
        if self.inner.advantage != "gae":
            raise ValueError(
                f"inner.advantage must be gae {needs} {self.inner.advantage}: a learned advantage "
                "reads one control step, but the latent variable acts in the whole episode"
            )


def origin(config: Config) -> dict[str, str]:
    """Values that a run and its checkpoints must share, besides names and shapes of parameters."""
    return {"environment": config.env.name.rpartition(":")[2]}  # the module may have moved


def to_mapping(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries of plain values, as in config.yaml.

    Arguments of the environment are beside its ``name``, or all in ``env.kwargs`` if one of them
    has the name of a setting. Groups that the learner does not use are left out.

    Raises:
        UserError: if a file cannot hold a setting of the environment or of the learner; the
            message names it.
    """
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values["callbacks"] = list(config.callbacks)
    for group in set(LEARNER_GROUPS) - set(config.learner.GROUPS):
        del values[group]
    for name, value in values.items():
        if name != "env" and dataclasses.is_dataclass(value):
            values[name] = _plain_fields(value)
    if "outer" in values:
        values["outer"] = {"name": config.outer.name, **values["outer"]}
    values["env"] = _env_mapping(config.env)
    for name in ("env", "learner"):
        check_plain(values[name], name)
    values["env"] = copy.deepcopy(values["env"])
    return values


def _plain_fields(config: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, tuples as lists."""
    return {
        field.name: plain_values(getattr(config, field.name))
        for field in dataclasses.fields(config)
    }


def env_settings(env: EnvConfig) -> dict[str, Any]:
    """Return the settings of an environment besides its name: arguments, and what is changed."""
    values = _env_mapping(env)
    del values["name"]
    return values


def _env_mapping(env: EnvConfig) -> dict[str, Any]:
    """Name and arguments, and the other settings that are not at their defaults."""
    arguments = dict(env.kwargs)
    has_setting_name = not arguments.keys().isdisjoint(ENV_SETTINGS)
    values = {"name": env.name, **({"kwargs": arguments} if has_setting_name else arguments)}
    default = EnvConfig()
    for name in sorted(ENV_SETTINGS - {"name", "kwargs"}):
        if getattr(env, name) != getattr(default, name):
            values[name] = plain_values(getattr(env, name))
    return values
