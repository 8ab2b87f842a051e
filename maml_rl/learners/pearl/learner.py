"""PEARL as a learner, and one iteration of its training (Rakelly et al. 2019, algorithm 1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.base import Belief, Iteration, Learner, LearnerState, initial_normalizer
from maml_rl.learners.iteration_result import (
    FAILED_OUTER_STEPS,
    IterationWatch,
    Update,
    iteration_result,
)
from maml_rl.learners.pearl.actor import LatentActor
from maml_rl.learners.pearl.context import encoder_inputs, episode_steps
from maml_rl.learners.pearl.context_encoder import ContextEncoder
from maml_rl.learners.pearl.networks import Networks
from maml_rl.learners.pearl.plain_module import latent_module
from maml_rl.learners.pearl.replay import (
    HistoryEntry,
    bounded,
    check_entry,
    concatenated,
    drawn_tasks,
    history_entry,
    num_transitions,
)
from maml_rl.learners.pearl.sac import Learned
from maml_rl.learners.pearl.updates import take_updates
from maml_rl.learners.trials import TrainingTrial, sample_tasks, training_trial
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.latent import draw_noise, draw_noise_on_device
from maml_rl.policies.plain_network import PlainModule
from maml_rl.sampling.actors import Memory
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import OUTER_STEP
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners.pearl import PEARLConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.stopwatch import Stopwatch
from maml_rl.system.text import counted

_EPISODES = "num_episodes"
"""In a belief: number of episodes so far, (T, 1)."""

_OTHER_GROUPS = Learned._fields[2:]
"""Groups of the state besides theta, which holds encoder and actor."""


class _PlayedEntry(NamedTuple):
    """Trials in a meta-batch of tasks."""

    played: TrainingTrial
    """All trials of this process."""
    entry: HistoryEntry
    """Their episodes, of all processes."""


@dataclass(frozen=True, kw_only=True)
class PEARL(Learner):
    """PEARL: SAC with a policy that reads z, and an encoder that infers z from transitions.

    The belief is what the encoder knows of the transitions so far, and ``num_episodes`` (T, 1). A
    stage is one episode: the actor draws its z from the posterior, or takes the posterior's mean
    where actions are the most probable ones. The groups of the state are:

    - ``theta``, parameters of actor and encoder, and ``normalizer``;
    - ``critics``, their ``targets``, and ``temperature``;
    - ``critic_optimizer`` and ``actor_optimizer``, states of Adam.

    The history is the replay (:mod:`maml_rl.learners.pearl.replay`).

    Deviation from Rakelly et al. (2019): in training, z of a later episode is inferred from the
    earlier episodes of the same trial, as in a new task, and not from samples of the replay.
    Outside training, z is drawn from the posterior from the second episode on.

    Args:
        networks: the architecture of actor and critics.
        encoder: the architecture of the encoder.
        config: settings.
        reads_next_observation: whether the encoder reads s'.
        normalizes: whether observations are normalised.
        action_scale: of the action map; outputs are divided by it, and span the whole range.
        num_adaptation_steps: adaptation steps of a trial, unless the user asks for another number.
        num_training_stages: episodes of a trial in training.
        max_failed_share: largest share of discarded episodes, and of failed tasks, that an
            iteration tolerates.
        device: of all tensors.
        seed: of the initial parameters and the training tasks.
        tasks_per_block: tasks whose gradient is computed at once.
        num_prior_episodes: first episodes of a trial, whose z is drawn from the prior even if the
            belief has transitions. Training sets it for each trial.
    """

    CARRIED: ClassVar[tuple[str, ...]] = ("critics", "targets", "temperature")

    networks: Networks
    encoder: ContextEncoder
    config: PEARLConfig
    reads_next_observation: bool
    normalizes: bool
    action_scale: float
    num_adaptation_steps: int
    num_training_stages: int
    max_failed_share: float
    device: torch.device
    seed: int
    tasks_per_block: int
    num_prior_episodes: int = 1

    def initial_state(self) -> LearnerState:
        """Return the initial parameters, and empty statistics."""
        rng = RandomStreams(self.seed, Phase.INITIALISATION).parameters()
        parameters = (
            self.encoder.initial_parameters(rng),
            self.networks.initial_actor(rng),
            self.networks.initial_critics(rng),
        )
        encoder, actor, critics = (
            {name: value.to(self.device) for name, value in part.items()} for part in parameters
        )
        observation_shape = (self.networks.observation_size,)
        normalizer = initial_normalizer(self.normalizes, observation_shape, self.device)
        learned = Learned.initial(encoder, actor, critics, self.config.temperature)
        return LearnerState.initial(
            {"normalizer": normalizer, **_groups(learned)}, **{FAILED_OUTER_STEPS: 0}
        )

    def prior(self, state: LearnerState, num_tasks: int) -> Belief:
        """Return the belief without transitions."""
        like = next(iter(state.tensors["theta"].values()))
        empty = self.encoder.empty(num_tasks, like)
        return {**empty, _EPISODES: like.new_zeros(num_tasks, 1)}

    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw noise of the actions, and of z after it."""
        head = ActionHead(self.networks.action_size)
        return draw_noise(head, self.networks.latent_size, rng, shape)

    def draw_noise_on_device(self, rng: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Draw it on a GPU."""
        head = ActionHead(self.networks.action_size)
        return draw_noise_on_device(head, self.networks.latent_size, rng, shape)

    @torch.no_grad()
    def actor(
        self,
        state: LearnerState,
        belief: Belief,
        noise: Tensor | None,
        memory: Memory | None = None,
    ) -> LatentActor:
        """Return an actor that draws z of each episode from the posterior."""
        theta = state.tensors["theta"]
        # Before num_prior_episodes, z is from the prior: that of an empty belief.
        explores = belief[_EPISODES] < self.num_prior_episodes
        known = {
            name: torch.where(explores, 0.0, value)
            for name, value in belief.items()
            if name != _EPISODES
        }
        return LatentActor(
            self.networks,
            theta,
            self.encoder.posterior(theta, known),
            noise,
            state.normalizer,
            self.action_scale,
            memory,
        )

    @torch.no_grad()
    def update(self, state: LearnerState, belief: Belief, episodes: Episodes, stage: int) -> Belief:
        """Return the belief after the transitions of the episodes."""
        theta, reads_next = state.tensors["theta"], self.reads_next_observation
        known = {name: value for name, value in belief.items() if name != _EPISODES}
        for number in range(episodes.mask.shape[1]):
            steps, mask = episode_steps(episodes, number, self.action_scale, reads_next)
            context = encoder_inputs(steps, state.normalizer, reads_next)
            known = dict(self.encoder.add(theta, known, context, mask))
        num_played = (episodes.mask.sum(-1) > 0).sum(1, keepdim=True)
        return {**known, _EPISODES: belief[_EPISODES] + num_played}

    def describe(self, state: LearnerState) -> dict[str, Any]:
        """Say what a step is."""
        return {
            "note": "the return after k steps is that of episode k + 1, with z inferred from the k "
            "before"
        }

    def check_history_entry(self, entry: Mapping[str, Tensor], source: Path) -> None:
        """Refuse an entry that is not a replay of these observations and actions."""
        check_entry(entry, self.networks.observation_size, self.networks.action_size, source)

    def plain_module(
        self, state: LearnerState, belief: Belief, action_map: ActionMap
    ) -> PlainModule:
        """Return the policy given the posterior's mean of z."""
        theta = state.tensors["theta"]
        (z,) = self.encoder.posterior(theta, belief).mean
        return latent_module(
            self.networks, theta, z, state.normalizer, self.action_scale, action_map
        )

    def notice(self, num_env_steps: int) -> str | None:
        """Say how much longer the first iteration is."""
        config = self.config
        if config.num_training_tasks == 0:
            return None
        number = config.num_training_tasks * config.num_initial_episodes * num_env_steps
        return (
            f"notice: the first iteration begins with "
            f"{counted(config.num_initial_episodes, 'episode')} in each of the "
            f"{counted(config.num_training_tasks, 'training task')}, at most {number:,} more "
            "control steps, and those that fill the last meta-batch"
        )

    def iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        """Play trials in some training tasks, add them to the replay, and learn from it."""
        watch = IterationWatch(ranks)

        # Draw training tasks; before the first update, explore all of them.
        tasks, numbers = self._training_tasks(collector, streams)
        played: list[_PlayedEntry] = []
        if state.counters["iteration"] == 0 and self.config.num_training_tasks > 0:
            played = self._initial_episodes(state, tasks, collector, ranks, watch)

        # Play a trial in each: episodes with z from the prior, then from the posterior.
        num_prior, num_stages = self.config.num_prior_episodes, self.num_training_stages
        last = self._played_entry(
            state, tasks, numbers, num_stages, num_prior, collector, streams, ranks, watch
        )
        played.append(last)

        # Add the episodes to the replay, and observations to the normaliser.
        entry = concatenated([each.entry for each in played])
        history = bounded((*state.history, entry), self.config.capacity)
        normalizer = state.normalizer
        if normalizer is not None and len(entry["observations"]) > 0:
            # Every process has the whole entry.
            normalizer = normalizer.updated([entry["observations"]], Ranks(), are_normalized=False)
        watch.lap("replay")

        # Update encoder, critics and actor, as often per control step in every iteration.
        most = collector.meta_batch_size * num_stages * collector.horizon
        num_updates = math.ceil(self.config.num_updates * num_transitions(last.entry) / most)
        learned, metrics, detail = take_updates(
            _learned(state),
            history,
            normalizer,
            num_updates,
            networks=self.networks,
            encoder=self.encoder,
            config=self.config,
            reads_next=self.reads_next_observation,
            block_size=self.tasks_per_block,
            rng=streams.minibatches(),
            ranks=ranks,
            progress=_progress(collector, ranks),
        )
        watch.lap("update")

        # What has changed, and the replay.
        groups = _groups(learned)
        if normalizer is not None:
            groups["normalizer"] = normalizer._asdict()
        metrics["train/replay_size"] = float(sum(map(num_transitions, history)))
        metrics["update/temperature"] = float(learned.temperature["log_alpha"].exp())
        update = Update(groups, metrics, OUTER_STEP if detail else "", detail)
        trials = [each.played for each in played]
        result = iteration_result(state, trials, update, ranks, watch)
        return result._replace(state=result.state._replace(history=history))

    def _training_tasks(
        self, collector: Collector, streams: RandomStreams
    ) -> tuple[list[Task], np.ndarray]:
        """Return training tasks, and the indices of those to play, one for each in a meta-batch."""
        number = self.config.num_training_tasks
        if number == 0:
            return sample_tasks(collector, streams), np.arange(collector.meta_batch_size)
        # The same in every iteration.
        always = RandomStreams(self.seed, Phase.INITIALISATION)
        tasks = sample_tasks(collector, always, number)
        return tasks, drawn_tasks(streams.tasks(), number, collector.meta_batch_size)

    def _initial_episodes(
        self,
        state: LearnerState,
        tasks: Sequence[Task],
        collector: Collector,
        ranks: Ranks,
        watch: Stopwatch,
    ) -> list[_PlayedEntry]:
        """Play episodes of every task with z from the prior, a meta-batch of tasks at a time."""
        num_groups = math.ceil(len(tasks) / collector.meta_batch_size)
        numbers = np.resize(np.arange(len(tasks)), num_groups * collector.meta_batch_size)
        number = self.config.num_initial_episodes
        played = []
        for i, group in enumerate(np.split(numbers, num_groups)):
            streams = RandomStreams(self.seed, Phase.INITIALISATION, i)
            played.append(
                self._played_entry(
                    state, tasks, group, number, number, collector, streams, ranks, watch
                )
            )
        return played

    def _played_entry(
        self,
        state: LearnerState,
        tasks: Sequence[Task],
        numbers: np.ndarray,
        num_stages: int,
        num_prior_stages: int,
        collector: Collector,
        streams: RandomStreams,
        ranks: Ranks,
        watch: Stopwatch,
    ) -> _PlayedEntry:
        """Play trials in the tasks of these numbers, and make the entry of the replay from them.

        The first ``num_prior_stages`` of the ``num_stages`` episodes have z from the prior. Tasks
        that failed are left out.
        """
        played = training_trial(
            dataclasses.replace(self, num_prior_episodes=num_prior_stages),
            state,
            collector,
            num_adaptation_steps=num_stages - 1,
            streams=streams,
            ranks=ranks,
            max_failed_share=self.max_failed_share,
            tasks=[tasks[number] for number in numbers],
            watch=watch,
        )
        if self.config.num_training_tasks == 0:  # the tasks are new in every iteration
            numbers = numbers + state.counters["iteration"] * len(numbers)
        valid = played.trial.valid_tasks
        entry = history_entry(
            played.trial.valid_episodes,
            collector.of_this_process(numbers)[valid.cpu().numpy()].tolist(),
            num_prior_stages,
            self.action_scale,
            ranks,
        )
        return _PlayedEntry(played, entry)


def _progress(collector: Collector, ranks: Ranks) -> Callable[[str], None]:
    """Return what is called before each update. One process can stop there, as between stages.

    With several processes, the others would wait for the one that stops.
    """

    def before_update(text: str) -> None:
        if ranks.number == 1:
            collector.check_stop()
        collector.progress(text)

    return before_update


def _groups(learned: Learned) -> dict[str, Mapping[str, Tensor]]:
    """Return groups of the state."""
    encoder, actor, *others = learned
    return {"theta": {**encoder, **actor}, **dict(zip(_OTHER_GROUPS, others, strict=True))}


def _learned(state: LearnerState) -> Learned:
    """Undo :func:`_groups`."""
    theta = state.tensors["theta"]
    encoder, actor = (
        {name: value for name, value in theta.items() if name.startswith(prefix)}
        for prefix in ("encoder_", "actor_")
    )
    return Learned(encoder, actor, *(dict(state.tensors[name]) for name in _OTHER_GROUPS))
