"""RL² as a learner, and one iteration of its training (Duan et al. 2016, Wang et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from maml_rl.learners.adam import initial_state as initial_adam
from maml_rl.learners.base import Belief, Iteration, Learner, LearnerState
from maml_rl.learners.failed_steps import FAILED_OUTER_STEPS, with_outer_failure
from maml_rl.learners.metrics import SamplingMetrics, failure_metrics, time_metrics
from maml_rl.learners.rl2.actor import RecurrentActor, belief_after
from maml_rl.learners.rl2.batch import Evaluated, evaluated_trials, trial_batch
from maml_rl.learners.rl2.ppo import TrialBatch, ppo_update
from maml_rl.learners.rl2.sequence import TrialSequence, trial_sequence
from maml_rl.learners.rl2.trial_gradient import trials_per_block
from maml_rl.learners.rl2.value_scale import ValueScale
from maml_rl.learners.trials import TrainingTrial, training_trial
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.mlp import vector_size
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.policies.plain_network import PlainModule
from maml_rl.policies.recurrent.network import RecurrentPolicy
from maml_rl.policies.recurrent.plain_module import recurrent_module
from maml_rl.sampling.actors import Memory
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import OUTER_STEP
from maml_rl.sampling.task_in_observation import TaskEncoder
from maml_rl.settings.config import Config
from maml_rl.settings.drawn_tasks import Task
from maml_rl.settings.learners.rl2 import RL2Config
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.system.stopwatch import Stopwatch


class _Update(NamedTuple):
    """The result of an update; one that fails leaves theta and the optimiser unchanged."""

    theta: Params
    optimizer: dict[str, Tensor]
    metrics: dict[str, float]
    detail: str = ""
    """Why it failed; empty if it succeeded."""


@dataclass(frozen=True, kw_only=True)
class RL2(Learner):
    """RL²: a recurrent policy, trained by PPO on trials of several episodes.

    The belief is what the policy remembers: ``memory`` (T, memory_size), the state of the cell, and
    ``previous`` (T, previous_size), the action, reward and end of an episode before the next step.
    A stage is one episode; its update runs the cell over it. The groups of the state are:

    - ``theta``, ``normalizer``, and ``optimizer``, the state of Adam;
    - ``value_scale``, the running mean and deviation of the value network's targets.

    Args:
        policy: the architecture.
        config: settings.
        normalizes: whether observations are normalised.
        num_updates: adaptation steps of a trial, unless the user asks for another number.
        num_training_stages: episodes of a trial in training.
        max_failed_share: largest share of discarded episodes, and of failed tasks, that an
            iteration tolerates.
        device: of all tensors.
        seed: of the initial parameters.
        task_encoder: makes vectors of tasks for the value network; ``None`` if it observes none.
        trials_per_block: trials whose gradient is computed at once; default depends on the device.
            It bounds memory, and changes results at most by rounding.
    """

    # A saved agent does not have what only training needs.
    OPTIONAL: ClassVar[tuple[str, ...]] = ("optimizer", "value_scale")

    policy: RecurrentPolicy
    config: RL2Config
    normalizes: bool
    num_updates: int
    num_training_stages: int
    max_failed_share: float
    device: torch.device
    seed: int
    task_encoder: TaskEncoder | None = None
    trials_per_block: int | None = None

    def initial_state(self) -> LearnerState:
        """Return the initial parameters, and statistics of nothing."""
        rng = RandomStreams(self.seed, Phase.INITIALISATION).parameters()
        theta = {
            name: value.to(self.device) for name, value in self.policy.initial_theta(rng).items()
        }
        normalizer: Mapping[str, Tensor] = {}
        if self.normalizes:
            shape = (self.policy.observation_size,)
            normalizer = ObservationNormalizer.empty(shape, self.device)._asdict()
        return LearnerState.initial(
            {
                "theta": theta,
                "normalizer": normalizer,
                "optimizer": initial_adam(theta),
                "value_scale": ValueScale.empty(self.device)._asdict(),
            },
            **{FAILED_OUTER_STEPS: 0},
        )

    def prior(self, state: LearnerState, num_tasks: int) -> Belief:
        """Return an empty memory for every task."""
        like = next(iter(state.tensors["theta"].values()))
        return {
            "memory": like.new_zeros(num_tasks, self.policy.memory_size),
            "previous": like.new_zeros(num_tasks, self.policy.previous_size),
        }

    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw the noise of the policy's distribution."""
        return self.policy.action_head.draw_noise(rng, shape)

    def draw_noise_on_device(self, rng: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Draw it on a GPU."""
        return self.policy.action_head.draw_noise_on_device(rng, shape)

    def actor(
        self,
        state: LearnerState,
        belief: Belief,
        noise: Tensor | None,
        memory: Memory | None = None,
    ) -> RecurrentActor:
        """Return an actor that remembers within the episode, too."""
        theta, normalizer = state.tensors["theta"], state.normalizer
        return RecurrentActor(self.policy, theta, belief, noise, normalizer, memory)

    @torch.no_grad()
    def update(self, state: LearnerState, belief: Belief, episodes: Episodes, stage: int) -> Belief:
        """Return the memory after the episodes, which follow one another."""
        theta, block_size = state.tensors["theta"], self._trials_per_block
        return belief_after(self.policy, theta, belief, episodes, block_size)

    def describe(self, state: LearnerState) -> dict[str, Any]:
        """Say what a step is."""
        return {
            "note": "the return after k steps is that of episode k + 1; the memory adapts within "
            "it, too"
        }

    def plain_module(
        self, state: LearnerState, belief: Belief, action_map: ActionMap
    ) -> PlainModule:
        """Return the policy, which begins with the belief."""
        (memory,), (previous,) = belief["memory"], belief["previous"]
        theta = state.tensors["theta"]
        return recurrent_module(self.policy, theta, memory, previous, state.normalizer, action_map)

    def iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        """Sample tasks, play a trial in each, and update policy and value by PPO."""
        watch = Stopwatch()
        num_bytes = ranks.num_bytes

        # Sample tasks, and play a trial of several episodes in each.
        played = training_trial(
            self,
            state,
            collector,
            num_updates=self.num_training_stages - 1,
            streams=streams,
            ranks=ranks,
            max_failed_share=self.max_failed_share,
            watch=watch,
        )
        valid = played.trial.valid_tasks
        stages = [episodes.chosen(valid) for episodes in played.trial.episodes]

        # Compute values and advantages of the trials that did not fail.
        batch, value_scale, metrics = self._batch(state, stages, played, valid, ranks)
        watch.lap("advantages")

        # Update policy and value.
        update = self._update(state, batch, valid + collector.first_task, collector, streams, ranks)
        what = OUTER_STEP if update.detail else ""
        failures, num_failed = with_outer_failure(
            state, played.rows, self.num_training_stages - 1, what, update.detail
        )
        watch.lap("update")

        # Update the normaliser and the counters; compute metrics.
        sampling = SamplingMetrics(stages, ranks)
        changed: dict[str, Mapping[str, Tensor]] = {
            "theta": update.theta,
            "optimizer": update.optimizer,
        }
        if not update.detail:  # otherwise the targets may be non-finite
            changed["value_scale"] = value_scale._asdict()
        normalizer = state.normalizer
        if normalizer is not None:
            observations = torch.cat([episodes.real_observations for episodes in stages])
            changed["normalizer"] = normalizer.updated(observations, ranks)._asdict()
        metrics |= update.metrics | sampling.metrics() | failure_metrics(played)
        metrics["update/failed"] = float(bool(update.detail))
        if "log_std" in update.theta:
            metrics["train/policy_std"] = float(update.theta["log_std"].exp().mean())
        metrics |= time_metrics(watch, ranks, num_bytes)
        counters = {FAILED_OUTER_STEPS: num_failed}
        next_state = state.after_iteration(changed, sampling.num_env_steps, **counters)
        return Iteration(next_state, metrics, failures)

    def _batch(
        self,
        state: LearnerState,
        stages: Sequence[Episodes],
        played: TrainingTrial,
        valid: Tensor,
        ranks: Ranks,
    ) -> tuple[TrialBatch, ValueScale, dict[str, float]]:
        """Return what PPO learns from, the new scale of the values' targets, and metrics.

        Args:
            state: with which the trials were played.
            stages: episodes of the trials that did not fail.
            played: all trials of this process.
            valid: indices of those that did not fail.
            ranks: the processes.
        """
        previous = self.prior(state, len(valid))["previous"]
        sequence = trial_sequence(stages, previous, self.policy.action_head)
        tasks = self._vectors([played.tasks[i] for i in valid.tolist()])
        return trial_batch(
            sequence,
            tasks,
            self._evaluated(state.tensors["theta"], sequence, tasks),
            ValueScale(**state.tensors["value_scale"]),
            self.config,
            self.config.credit_across_episodes,
            ranks,
        )

    def _evaluated(self, theta: Params, sequence: TrialSequence, tasks: Tensor | None) -> Evaluated:
        """Return distributions, log-probabilities of the actions, and values of whole trials."""
        return evaluated_trials(self.policy, theta, sequence, tasks, self._trials_per_block)

    def _vectors(self, tasks: Sequence[Task]) -> Tensor | None:
        """Return tasks as vectors (N, task_size), if the value network observes them."""
        if self.task_encoder is None:
            return None
        return torch.tensor([self.task_encoder(task) for task in tasks], device=self.device)

    @property
    def _trials_per_block(self) -> int:
        """Trials that are computed at once."""
        return self.trials_per_block or trials_per_block(self.device)

    def _update(
        self,
        state: LearnerState,
        batch: TrialBatch,
        indices: Tensor,
        collector: Collector,
        streams: RandomStreams,
        ranks: Ranks,
    ) -> _Update:
        """Run PPO; if it fails, keep theta and the state of the optimiser."""
        theta, optimizer = state.tensors["theta"], dict(state.tensors["optimizer"])
        step_size = self.config.step_size_at(state.counters["iteration"])
        try:
            new_theta, new_optimizer, metrics = ppo_update(
                self.policy,
                theta,
                optimizer,
                batch,
                indices,
                collector.num_tasks_of_all or collector.num_tasks,
                self.config,
                step_size,
                streams.minibatches(),
                ranks,
                self._trials_per_block,
            )
        except FloatingPointError as error:
            return _Update(theta, optimizer, {}, str(error))
        return _Update(new_theta, new_optimizer, {**metrics, "update/step_size": step_size})


def rl2(
    config: Config,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    device: torch.device,
) -> RL2:
    """Make the learner ``rl2``; see :func:`maml_rl.learners.make.make_learner`."""
    settings = config.learner
    assert isinstance(settings, RL2Config), "the settings choose the learner"
    observation_size = vector_size(observation_space, settings.name)
    task_encoder = None
    if settings.asymmetric_critic:
        with as_task_vector_env(None, config.env, 1, config.horizon) as env:
            task_encoder = TaskEncoder(env, config.env.name, "learner.asymmetric_critic")
    generates = {"policy": settings.hypernetwork, "value": settings.hypernetwork_value}
    policy = RecurrentPolicy(
        observation_size=observation_size,
        action_head=ActionHead.of(action_space),
        cell=settings.cell,
        hidden_size=settings.hidden_size,
        hidden_sizes=config.policy.hidden_sizes,
        nonlinearity=config.policy.nonlinearity,
        init_std=config.policy.init_std,
        generated=tuple(name for name, is_generated in generates.items() if is_generated),
        latent_size=settings.latent_size,
        task_size=0 if task_encoder is None else task_encoder.size,
    )
    return RL2(
        policy=policy,
        config=settings,
        normalizes=config.policy.normalize_observations,
        num_updates=settings.num_episodes - 1,
        num_training_stages=settings.num_episodes,
        max_failed_share=config.max_failed_share,
        device=device,
        seed=config.seed,
        task_encoder=task_encoder,
        trials_per_block=config.tasks_per_block,
    )
