"""What every learner's settings have, and checks that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from maml_rl.errors import name_errors
from maml_rl.settings.ranges import Range, check_ranges

LEARNER_GROUPS = ("inner", "outer", "baseline")
"""Groups of settings that only some learners use."""


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Settings of a learner. Its fields are the settings ``learner.*``."""

    name: str = ""
    """The learner: maml adapts by policy gradient; joint trains one policy on all tasks; rl2 adapts
    by its memory; pearl infers a latent variable of the task, and learns off-policy; rma and sysid
    train a teacher that observes the task, then a student that infers it. Or module:Class."""

    GROUPS: ClassVar[tuple[str, ...]] = ()
    """The groups in LEARNER_GROUPS that it uses; settings of the others are refused."""
    REQUIRED: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By group, settings that must have a certain value; those of another learner's preset or file
    are dropped."""
    IMPLEMENTATION: ClassVar[str] = ""
    """``module:object`` that makes a built-in learner; for others, it is ``name`` itself."""
    STAGE_IS_EPISODE: ClassVar[bool] = False
    """Whether a stage is one episode in which the learner adapts, too. Tables, figures and videos
    then say "episode 2" instead of "after 1 step, 1 episode"."""
    OUTPUTS_ARE_BOUNDED: ClassVar[bool] = False
    """Whether outputs of its policy are actions, so that a log without the outputs before clipping
    lacks nothing."""
    ON_DEVICE: ClassVar[bool] = False
    """Whether its learner defines ``draw_noise_on_device`` and its actors ``act_on_tensors``, so
    that they can play simulations on a GPU (``--engine warp``)."""
    RANGES: ClassVar[Mapping[str, Range]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Make the errors of settings of the user's own name their methods."""
        super().__init_subclass__(**options)
        name_errors(cls, ("stage_episodes",))
        name_errors(cls, ("__post_init__", "check"), passing=ValueError)

    def __post_init__(self) -> None:
        check_ranges(self, "learner.")

    @property
    def is_own(self) -> bool:
        """Whether the learner is not built in."""
        return ":" in self.name

    def stage_episodes(self, num_episodes: int) -> int:
        """Return how many episodes of a task one stage plays, all before the next update.

        If there are fewer than ``num_episodes``, an evaluation plays several independent trials of
        each task. The number must divide ``num_episodes``.

        Args:
            num_episodes: episodes to play per task and stage, from the settings of the run or of
                an evaluation.
        """
        return num_episodes

    def check(self, config: Any) -> None:
        """Refuse contradictions with other settings.

        Args:
            config: the whole configuration, a :class:`maml_rl.Config`.

        Raises:
            ValueError: if settings contradict each other; the message names them.
        """


def check_own_networks(config: Any) -> None:
    """Refuse a network of the user's own, and CAVIA's context, for a learner that has its networks.

    Args:
        config: the whole configuration.

    Raises:
        ValueError: if either is set.
    """
    for name, default in (("network", None), ("context_size", 0)):
        value = getattr(config.policy, name)
        if value != default:
            raise ValueError(
                f"policy.{name} must be {'null' if default is None else default} if learner.name "
                f"is {config.learner.name}, got {value}"
            )


def check_required(config: Any, required: Mapping[str, Mapping[str, Any]], condition: str) -> None:
    """Refuse other values than the required ones.

    Args:
        config: the whole configuration.
        required: values by group and setting.
        condition: under which they are required, for the message.

    Raises:
        ValueError: at the first difference.
    """
    for group, values in required.items():
        for name, expected in values.items():
            value = getattr(getattr(config, group), name)
            if value != expected:
                raise ValueError(
                    f"{group}.{name} must be {str(expected).lower()} if {condition}, got "
                    f"{str(value).lower()}"
                )


def without_required(
    settings: Mapping[str, Any], required: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return nested settings without those of which a certain value is required."""
    kept = dict(settings)
    for group, names in required.items():
        if isinstance(kept.get(group), Mapping):
            kept[group] = {key: value for key, value in kept[group].items() if key not in names}
    return kept
