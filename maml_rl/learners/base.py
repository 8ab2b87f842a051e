"""What every learner offers: a belief about each task, and how episodes change it.

MAML's belief is a stack of adapted parameters. A recurrent learner's would be its memory, that of
a learner with a latent variable a posterior. Training, evaluation, videos, checkpoints and agents
ask for a belief, and never which learner it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from maml_rl.errors import UserError, in_one_line, name_errors
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.plain_network import PlainModule, PlainNetwork
from maml_rl.runs.checkpoint import LARGEST_COUNTER
from maml_rl.runs.progress_log import check_metrics
from maml_rl.sampling.actors import Actor, Memory
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import Failure
from maml_rl.settings.config import Config
from maml_rl.settings.env import load_object
from maml_rl.settings.ranges import Integer
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import RandomStreams

Belief = Mapping[str, Tensor]
"""What a learner believes about T tasks: tensors (T, ...) by name, all of one device."""


class LearnerState(NamedTuple):
    """Everything that a run carries from one iteration to the next, and that a checkpoint holds."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """Groups of tensors by name: theta, normalizer, outer, ..."""
    counters: Mapping[str, int]
    """Non-negative integers by name: ``iteration``, ``num_env_steps``, and the learner's own."""

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
    """Groups of the state on which playing and updating a belief depend."""

    num_updates: int = 1
    """Updates of a trial, unless the user asks for another number."""
    num_training_stages: int = 2
    """Stages of a trial in training."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Make the errors of a learner of the user's own name its methods."""
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
        acting = {name: state.tensors[name] for name in self.ACTING if name in state.tensors}
        return initial._replace(tensors={**initial.tensors, **acting})

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

    def check(self, state: LearnerState, source: Path) -> None:
        """Refuse a state that this learner cannot use.

        Args:
            state: read from a file; its groups and names are in the order of the initial state.
            source: the file, for the message.

        Raises:
            UserError: if names, shapes or types differ from those of the initial state, or a
                value is not finite.
        """
        for group, expected in self.initial_state().tensors.items():
            check_group(state.tensors.get(group, {}), expected, group, source)

    def notice(self, num_env_steps: int) -> str | None:
        """Return a line to log before training, or ``None``.

        Args:
            num_env_steps: largest number of control steps of a task in one stage.
        """
        return None

    def describe(self) -> dict[str, Any]:
        """Return what results.json says about the learner, as plain values."""
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


def make_learner(
    config: Config,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    device: torch.device,
) -> Learner:
    """Make the learner that the settings describe.

    Args:
        config: settings of the run.
        observation_space: of one environment: a Box.
        action_space: of one environment.
        device: of all tensors.

    Raises:
        UserError: if a space is not supported, or a learner of the user's cannot be made.
    """
    is_own = config.learner.is_own
    name = config.learner.name if is_own else config.learner.IMPLEMENTATION
    make = load_object(name, "learner")
    try:
        learner = make(config, observation_space, action_space, device)
    except Exception as error:  # whatever the user's code raises
        if not is_own or isinstance(error, UserError):
            raise
        raise UserError(f"learner {name!r} cannot be made ({in_one_line(error)})") from error
    if not isinstance(learner, Learner):
        raise UserError(
            f"learner.name {config.learner.name} must make a maml_rl.learners.base.Learner, got "
            f"{type(learner).__name__}"
        )
    if is_own:
        check_start(learner, name)
    return learner


def check_start(learner: Learner, name: str) -> None:
    """Refuse a learner of the user's own whose initial state or prior is not one.

    Args:
        learner: the learner.
        name: its name, for messages.

    Raises:
        UserError: if it is refused.
    """
    state = learner.initial_state()
    _check_state(state, f"initial_state of learner {name}")
    if state.counters["iteration"] or state.counters["num_env_steps"]:
        raise UserError(
            f"initial_state of learner {name} must be made by LearnerState.initial, got the "
            f"counters {dict(state.counters)}"
        )
    learner.check(state, Path(f"the initial state of {name}"))
    prior = learner.prior(state, 2)
    what = f"prior of learner {name}"
    if not isinstance(prior, Mapping) or not prior:
        raise UserError(f"{what} must be a mapping with at least one tensor, got {prior!r:.100}")
    for key, value in prior.items():
        _check_tensor(value, f"{what}: {key}")
        if value.shape[:1] != (2,):
            raise UserError(
                f"{what}: {key} must have the leading axis (2,) for two tasks, got "
                f"{tuple(value.shape)}"
            )


def check_belief(belief: Belief, before: Belief) -> None:
    """Refuse a belief after an update whose names, shapes, types or devices have changed.

    Args:
        belief: what ``update`` of a learner returned.
        before: the belief before, (T, ...).

    Raises:
        UserError: at the first difference.
    """
    if not isinstance(belief, Mapping) or belief.keys() != before.keys():
        names = f"{sorted(belief)}" if isinstance(belief, Mapping) else f"{belief!r:.100}"
        raise UserError(f"update of a learner must return the belief {sorted(before)}, got {names}")
    for name, old in before.items():
        value = belief[name]
        _check_tensor(value, f"update of a learner: {name}")
        expected = f"{tuple(old.shape)} {old.dtype} on {old.device}"
        got = f"{tuple(value.shape)} {value.dtype} on {value.device}"
        if got != expected:
            raise UserError(f"update of a learner must keep {name} {expected}, got {got}")


def check_iteration(
    iteration: Iteration, before: LearnerState, learner: Learner, name: str
) -> None:
    """Refuse the result of an iteration that cannot be logged, saved and continued.

    Args:
        iteration: what a learner of the user's own returned.
        before: the state before it.
        learner: the learner.
        name: its name, for messages.

    Raises:
        UserError: if it is refused.
    """
    what = f"iteration of learner {name}"
    if not isinstance(iteration, Iteration):
        raise UserError(f"{what} must return an Iteration, got {type(iteration).__name__}")
    state, metrics, failures = iteration
    # The state: a checkpoint of it must be readable.
    _check_state(state, f"the state after {what}")
    for part, old, new in (
        ("tensors", before.tensors, state.tensors),
        ("counters", before.counters, state.counters),
    ):
        if old.keys() != new.keys():
            raise UserError(f"{what} must keep the {part} {sorted(old)}, got {sorted(new)}")
    number, expected = state.counters["iteration"], before.counters["iteration"] + 1
    if number != expected:
        raise UserError(
            f"{what} must return a state after iteration {expected}, got {number}: make it by "
            "state.after_iteration"
        )
    learner.check(state, Path(f"the state after iteration {number} of {name}"))
    # What is logged.
    check_metrics(metrics, what)
    if not isinstance(failures, list) or not all(isinstance(row, Failure) for row in failures):
        raise UserError(f"{what}: failures must be a list of Failure, got {failures!r:.100}")


def _check_state(state: Any, what: str) -> None:
    """Refuse a state that no checkpoint can hold."""
    if not isinstance(state, LearnerState):
        raise UserError(f"{what} must be a LearnerState, got {type(state).__name__}")
    for group, tensors in state.tensors.items():
        for name, value in tensors.items():
            _check_tensor(value, f"{what}: {group} {name}")
        if "/" in group:
            raise UserError(f"{what}: the name of a group must not contain /, got {group!r}")
    expected = Integer(0, LARGEST_COUNTER)
    for name in ("iteration", "num_env_steps", *state.counters):
        counter = state.counters.get(name)
        if not expected.accepts(counter):
            raise UserError(f"{what}: counter {name} must be {expected}, got {counter!r:.100}")


def _check_tensor(value: Any, what: str) -> None:
    if not isinstance(value, Tensor):
        raise UserError(f"{what} must be a torch.Tensor, got {type(value).__name__}")


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


def _shapes_and_dtypes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tuple(value.shape)} {value.dtype}" for name, value in tensors.items()}
