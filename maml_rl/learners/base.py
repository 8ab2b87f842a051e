"""What every learner offers: a belief about each task, and how episodes change it.

MAML's belief is a stack of adapted parameters, RL²'s its memory, PEARL's what its encoder knows.
Training, evaluation, videos, checkpoints and agents ask for a belief, and never which learner it
is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.errors import UserError, name_errors
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.plain_network import PlainModule, PlainNetwork
from maml_rl.sampling.actors import Actor, Memory
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import Failure
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import RandomStreams

Belief = Mapping[str, Tensor]
"""What a learner believes about T tasks: tensors (T, ...) by name, all of one device."""

BELIEF = "belief"
"""Group of the belief of a saved agent that has adapted; no state has a group of this name."""


class LearnerState(NamedTuple):
    """Everything that a run carries from one iteration to the next, and that a checkpoint holds."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """Groups of tensors by name: theta, normalizer, outer, ..."""
    counters: Mapping[str, int]
    """Non-negative integers by name: ``iteration``, ``num_env_steps``, and the learner's own."""
    history: tuple[Mapping[str, Tensor], ...] = ()
    """What was collected, one entry of tensors per iteration, oldest first.

    An entry never changes: a checkpoint writes it to disk once. Every iteration of a learner with a
    history appends one, the same on all processes; the oldest may be dropped. What acting depends
    on does not belong here: an agent is saved and loaded without it."""

    @property
    def normalizer(self) -> ObservationNormalizer | None:
        """The normaliser of observations, or ``None`` if the group ``normalizer`` is empty."""
        tensors = self.tensors["normalizer"]
        return ObservationNormalizer(**tensors) if tensors else None

    @classmethod
    def initial(cls, tensors: Mapping[str, Mapping[str, Tensor]], **counters: int) -> LearnerState:
        """Return the state before the first iteration.

        Args:
            tensors: groups of tensors.
            counters: the learner's own counters.
        """
        return cls(tensors, {"iteration": 0, "num_env_steps": 0, **counters})

    def after_iteration(
        self, tensors: Mapping[str, Mapping[str, Tensor]], num_env_steps: int, **counters: int
    ) -> LearnerState:
        """Return the state after one more iteration.

        Args:
            tensors: the groups that have changed; the others stay.
            num_env_steps: control steps of this iteration.
            counters: new values of the learner's own counters.
        """
        return LearnerState(
            {**self.tensors, **tensors},
            {
                **self.counters,
                **counters,
                "iteration": self.counters["iteration"] + 1,
                "num_env_steps": self.counters["num_env_steps"] + num_env_steps,
            },
            self.history,
        )


class Iteration(NamedTuple):
    """The result of an iteration."""

    state: LearnerState
    """The state after it."""
    metrics: dict[str, float]
    """Metrics by name, which docs/metrics.md explains."""
    failures: list[Failure]
    """Failures that did not stop the run (docs/reliability.md)."""


class Learner(ABC):
    """A learner. It holds settings and architecture; what it has learned is a ``LearnerState``.

    A class of your own is made as ``Class(config, observation_space, action_space, device)``; see
    docs/add_a_learner.md.
    """

    ACTING: ClassVar[tuple[str, ...]] = ("theta", "normalizer")
    """Groups of the state on which playing and updating a belief depend; a saved agent has only
    these."""
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    """Groups that a checkpoint of an earlier version may lack; they are then initial ones."""
    CARRIED: ClassVar[tuple[str, ...]] = ()
    """Groups besides ``ACTING`` that a run takes from the one it starts from (``init_from``)."""

    num_adaptation_steps: int = 1
    """Adaptation steps of a trial, unless the user asks for another number."""
    num_training_stages: int = 2
    """Stages of a trial in training."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Have the errors of a user's learner name the method that raised them."""
        super().__init_subclass__(**options)
        name_errors(cls, (name for name, value in vars(Learner).items() if callable(value)))

    @abstractmethod
    def initial_state(self) -> LearnerState:
        """Return the state before training; made by :meth:`LearnerState.initial`."""

    def started_from(self, state: LearnerState, belief: Belief) -> LearnerState:
        """Return a state before training whose policy is another run's (``init_from``).

        Args:
            state: of the other run, checked by :meth:`check`.
            belief: of its agent, (1, ...).

        Raises:
            UserError: if the other run lacks a group on which acting depends.
        """
        initial = self.initial_state()
        missing = [
            name for name in self.ACTING if initial.tensors.get(name) and name not in state.tensors
        ]
        if missing:
            raise UserError(
                f"init_from is a run of another learner: it has {', '.join(state.tensors)}, and no "
                f"{', '.join(missing)}"
            )
        names = [name for name in (*self.ACTING, *self.CARRIED) if name in state.tensors]
        taken = {name: state.tensors[name] for name in names}
        return initial._replace(tensors={**initial.tensors, **taken})

    @abstractmethod
    def prior(self, state: LearnerState, num_tasks: int) -> Belief:
        """Return the belief about T tasks before any episode."""

    @abstractmethod
    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw the noise that an actor needs to sample its outputs.

        Args:
            rng: stream of the actions.
            shape: leading axes.

        Returns:
            (*shape, ...), float32.
        """

    def draw_noise_on_device(self, rng: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Draw the same kind of noise on a GPU, for simulations there (``--engine warp``).

        Only a learner whose settings have ``ON_DEVICE`` needs it.

        Args:
            rng: seeded by the stream of the actions.
            shape: leading axes.

        Returns:
            (*shape, ...), float32, on the generator's device.
        """
        raise UserError(
            f"{type(self).__name__} must define draw_noise_on_device, or use --engine mujoco"
        )

    @abstractmethod
    def actor(
        self,
        state: LearnerState,
        belief: Belief,
        noise: Tensor | None,
        memory: Memory | None = None,
    ) -> Actor:
        """Return an actor that plays one stage.

        Args:
            state: what has been learned.
            belief: about T tasks.
            noise: from :meth:`draw_noise`, (T, E, H, ...); ``None`` for the most probable outputs.
            memory: what an actor with this belief remembered; ``None`` to begin with the belief.
        """

    def with_advantages(self, episodes: Episodes) -> Episodes:
        """Return episodes with what :meth:`update` and :meth:`iteration` need, such as advantages.

        Advantages that are not finite mean that a task cannot be used.
        """
        return episodes

    @abstractmethod
    def update(self, state: LearnerState, belief: Belief, episodes: Episodes, stage: int) -> Belief:
        """Return the belief after one stage.

        Args:
            state: what has been learned.
            belief: about T tasks, with which the episodes were played.
            episodes: of T tasks, from :meth:`with_advantages`.
            stage: number of updates before.

        Returns:
            The new belief; NaN for a task that cannot be updated.
        """

    @abstractmethod
    def iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        """Run one iteration of training.

        Args:
            state: the state before it.
            collector: plays the tasks of this process.
            streams: of random numbers, for this iteration.
            ranks: the processes that share the tasks.

        Raises:
            TooManyFailures: if too many episodes, tasks or outer steps failed.
        """

    def after_training(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> LearnerState:
        """Choose settings for use outside training, such as step sizes; by default nothing.

        The next iteration, if the run is extended, must not depend on the choice.

        Args:
            state: the state after the last iteration.
            collector: plays the tasks of this process.
            streams: of random numbers, for the choice.
            ranks: the processes that share the tasks; all must choose the same.

        Returns:
            The state with the choice, and the same counters; ``state`` itself if there is none.
        """
        return state

    def check(self, state: LearnerState, source: Path) -> None:
        """Refuse a state that this learner cannot use.

        Args:
            state: read from a file; its groups and names are in the order of the initial state.
            source: the file, for the message.

        Raises:
            UserError: if names, shapes or types differ from those of the initial state, a value is
                not finite, or a count or a sum of squares is negative.
        """
        for group, expected in self.initial_state().tensors.items():
            tensors = state.tensors.get(group, {})
            check_group(tensors, expected, group, source)
            check_statistics(tensors, group, source)

    def check_history_entry(self, entry: Mapping[str, Tensor], source: Path) -> None:
        """Refuse an entry of the history that this learner cannot use; the default refuses all.

        Args:
            entry: read from a file.
            source: the file, for the message.

        Raises:
            UserError: if it is refused.
        """
        raise UserError(f"{source} cannot be used: this learner has no history")

    def notice(self, num_env_steps: int) -> str | None:
        """Return a line to log before training, or ``None``.

        Args:
            num_env_steps: largest number of control steps of a task in one stage.
        """
        return None

    def describe(self, state: LearnerState) -> dict[str, Any]:
        """Return what results.json says about the learner, as plain values.

        A line of text under ``note`` is also in tables, reports and figures.

        Args:
            state: what has been learned.
        """
        return {}

    def plain_network(
        self, state: LearnerState, belief: Belief, action_map: ActionMap
    ) -> PlainNetwork:
        """Return the policy of one task as a multilayer perceptron, for Stable-Baselines3.

        Args:
            state: what has been learned.
            belief: about one task, (1, ...).
            action_map: from outputs to actions.

        Raises:
            UserError: if this learner's policy is not one.
        """
        raise UserError(
            f"the policy of learner {type(self).__name__} is not a multilayer perceptron: it "
            "cannot be converted"
        )

    def plain_module(
        self, state: LearnerState, belief: Belief, action_map: ActionMap
    ) -> PlainModule:
        """Return the policy of one task as a torch module, for export.

        Args:
            state: what has been learned.
            belief: about one task, (1, ...).
            action_map: from outputs to actions.

        Raises:
            UserError: if this learner's policy cannot be exported.
        """
        raise UserError(
            f"the policy of learner {type(self).__name__} is not a multilayer perceptron or a "
            "policy.network: it cannot be exported"
        )


def initial_normalizer(
    normalizes: bool, observation_shape: tuple[int, ...], device: torch.device
) -> Mapping[str, Tensor]:
    """Return the group ``normalizer`` of an initial state; empty without normalisation."""
    if not normalizes:
        return {}
    return ObservationNormalizer.empty(observation_shape, device)._asdict()


def check_group(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], group: str, source: Path
) -> None:
    """Refuse tensors whose names, shapes or types differ from the expected ones, or NaN and inf.

    Args:
        tensors: read from a file.
        expected: only names, shapes and types matter.
        group: what they are, for the message.
        source: the file, for the message.

    Raises:
        UserError: at the first difference.
    """
    got_shapes, shapes = _shapes_and_dtypes(tensors), _shapes_and_dtypes(expected)
    differing = sorted(
        name
        for name in shapes.keys() | got_shapes.keys()
        if shapes.get(name) != got_shapes.get(name)
    )
    if differing:
        name, *others = differing
        more = f" (and {len(others)} more)" if others else ""
        raise UserError(
            f"the {group} in {source} does not fit the settings: {name} is "
            f"{got_shapes.get(name, 'missing')}, expected "
            f"{shapes.get(name, 'no tensor of that name')}{more}"
        )
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise UserError(f"{source} cannot be used: {group} {name} is not finite")


def check_statistics(tensors: Mapping[str, Tensor], group: str, source: Path) -> None:
    """Refuse the statistics of a normaliser if its counts or squares are negative.

    Args:
        tensors: read from a file; those of other groups are not looked at.
        group: what they are, for the message.
        source: the file, for the message.

    Raises:
        UserError: if they are.
    """
    names = ObservationNormalizer._fields
    is_normalizer = tensors.keys() == set(names)
    if is_normalizer and any((tensors[name] < 0).any() for name in ("num_states", "squares")):
        raise UserError(f"the {group} in {source} has negative counts or squares")


def _shapes_and_dtypes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tuple(value.shape)} {value.dtype}" for name, value in tensors.items()}
