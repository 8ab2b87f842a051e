"""MAML as a learner, and one meta-iteration in the order of the paper."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from maml_rl.errors import UserError, one_line
from maml_rl.learners.advantages import with_advantages
from maml_rl.learners.base import (
    Belief,
    Iteration,
    Learner,
    LearnerState,
    check_group,
    check_statistics,
    initial_normalizer,
)
from maml_rl.learners.iteration_result import (
    FAILED_OUTER_STEPS,
    IterationWatch,
    Update,
    iteration_result,
)
from maml_rl.learners.linear_baseline import baseline_notice
from maml_rl.learners.maml.inner_step import STEP_SIZE, initial_theta, inner_step, with_context
from maml_rl.learners.maml.objective import MetaBatch, MetaObjective, with_credit
from maml_rl.learners.maml.outer import outer_step_of
from maml_rl.learners.maml.step_schedule import (
    NUM_TEST_FACTORS,
    describe_schedule,
    initial_schedule,
    with_chosen_factors,
    with_test_factors,
)
from maml_rl.learners.trials import Trial, training_trial
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.latent import LATENT_LOG_STD, without_latents
from maml_rl.policies.parameters import make_stack
from maml_rl.policies.plain_network import PlainModule, PlainNetwork
from maml_rl.policies.policy import Policy
from maml_rl.sampling.actors import Memory, PolicyActor
from maml_rl.sampling.collector import Collector
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import LINE_SEARCH, OUTER_STEP
from maml_rl.settings.learners import BaselineConfig, InnerConfig, OuterConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import RandomStreams
from maml_rl.system.thread_pool import TASKS_PER_BLOCK


@dataclass(frozen=True, kw_only=True)
class MAML(Learner):
    """MAML for reinforcement learning (Finn et al. 2017, algorithm 3).

    The belief is a stack of adapted parameters; an update is an inner step. The groups of the state
    are:

    - ``theta`` and ``normalizer``;
    - ``adaptation``: ``advantage_std`` (1,), which the advantages of inner steps are divided by
      (``inner.shared_advantage_scale``), ``test_factors`` (``NUM_TEST_FACTORS``,), multiples of
      the step sizes outside training, and ``num_choice_tasks`` (1,), the number of training tasks
      on which they were chosen, or 0;
    - ``outer``, the state of the outer step.

    Args:
        policy: the architecture, with the initial parameters.
        inner: settings of adaptation.
        outer: settings of the outer step; their ``name`` selects it.
        baseline: settings of returns and advantages.
        normalizes: whether observations are normalised.
        num_adaptation_steps: inner steps of a trial, unless the user asks for another number.
        num_training_stages: stages of a trial in training: one more than it has inner steps.
        max_failed_share: largest share of discarded episodes, and of failed tasks, that an
            iteration tolerates.
        tasks_per_block: tasks that the outer step computes at once. It bounds memory, and changes
            results at most by rounding.
        seed: of the initial weights of a learned advantage.
    """

    ACTING: ClassVar[tuple[str, ...]] = ("theta", "normalizer", "adaptation")
    OPTIONAL: ClassVar[tuple[str, ...]] = ("adaptation",)

    policy: Policy
    inner: InnerConfig
    outer: OuterConfig
    baseline: BaselineConfig
    normalizes: bool
    num_adaptation_steps: int
    num_training_stages: int
    max_failed_share: float
    tasks_per_block: int = TASKS_PER_BLOCK
    seed: int = 0

    def initial_state(self) -> LearnerState:
        """Return the initial parameters, and what else an iteration changes."""
        theta = initial_theta(self.policy, self.inner, self.seed)
        device = next(iter(theta.values())).device
        shape = self.policy.observation_shape
        adaptation = {
            "advantage_std": torch.ones(1, device=device),
            **initial_schedule(device),
        }
        return LearnerState.initial(
            {
                "theta": theta,
                "normalizer": initial_normalizer(self.normalizes, shape, device),
                "adaptation": adaptation,
                "outer": outer_step_of(self.outer).initial_state(theta, self.outer),
            },
            **{FAILED_OUTER_STEPS: 0},
        )

    def started_from(self, state: LearnerState, belief: Belief) -> LearnerState:
        """Return a state before training whose theta is the belief of another run's agent.

        Raises:
            UserError: if its belief is not a stack of parameters.
        """
        names = state.tensors.get("theta", {})
        if not names or not names.keys() <= belief.keys():
            raise UserError(
                f"init_from is a run of another learner: its belief is {', '.join(belief)}; MAML "
                "needs parameters"
            )
        theta = {name: belief[name][0] for name in names}
        initial = self.initial_state()
        groups = {"theta": theta, "normalizer": state.tensors.get("normalizer", {})}
        if self.inner.shared_advantage_scale:
            # Step sizes outside training are chosen again.
            std = state.tensors["adaptation"]["advantage_std"]
            groups["adaptation"] = {**initial.tensors["adaptation"], "advantage_std": std}
        return initial._replace(tensors={**initial.tensors, **groups})

    def prior(self, state: LearnerState, num_tasks: int) -> Belief:
        """Return theta for every task, with the initial context of CAVIA."""
        return with_context(self.policy, make_stack(state.tensors["theta"], num_tasks))

    def draw_noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draw the noise of the policy's distribution, and of its latent variable."""
        return self.policy.draw_noise(rng, shape)

    def draw_noise_on_device(self, rng: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        """Draw it on a GPU."""
        return self.policy.draw_noise_on_device(rng, shape)

    def actor(
        self,
        state: LearnerState,
        belief: Belief,
        noise: Tensor | None,
        memory: Memory | None = None,
    ) -> PolicyActor:
        """Return an actor that plays the adapted policies.

        Without a latent variable it has no memory.
        """
        return PolicyActor(self.policy, belief, noise, state.normalizer, memory)

    def with_advantages(self, episodes: Episodes) -> Episodes:
        """Fit each task's baseline, and return the episodes with advantages over it.

        The baseline does not see the latent variable: it would take the credit for what an episode
        returned because of it.
        """
        observations = without_latents(episodes.observations, self.policy.latent_size)
        of_environment = dataclasses.replace(episodes, observations=observations)
        estimated = with_advantages(of_environment, self.baseline, self.inner)
        return dataclasses.replace(estimated, observations=episodes.observations)

    def update(self, state: LearnerState, belief: Belief, episodes: Episodes, stage: int) -> Belief:
        """Return the parameters after one inner step."""
        adaptation = state.tensors["adaptation"]
        factor = float(adaptation["test_factors"][min(stage, NUM_TEST_FACTORS - 1)])
        factor /= float(adaptation["advantage_std"])
        return inner_step(self.policy, belief, episodes, self.inner, stage, factor)

    def iteration(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> Iteration:
        """Sample tasks, collect, adapt, collect, and take the outer step."""
        watch = IterationWatch(ranks)

        # The step sizes of tests do not apply: neither those chosen at an earlier end of the run,
        # nor those of the settings.
        state = with_test_factors(state, [1.0])
        inner = dataclasses.replace(self.inner, test_step_sizes=())

        # Sample tasks; play each with theta, adapt, and play again. Each inner step has fresh
        # episodes.
        played = training_trial(
            dataclasses.replace(self, inner=inner),
            state,
            collector,
            num_adaptation_steps=self.num_training_stages - 1,
            streams=streams,
            ranks=ranks,
            max_failed_share=self.max_failed_share,
            watch=watch,
        )

        # Outer step, on the tasks that did not fail.
        batch = _valid_part(played.trial)
        if inner.exploration_credit:
            batch = with_credit(batch, ranks)
        objective = MetaObjective(
            self.policy,
            batch,
            inner,
            self.tasks_per_block,
            ranks,
            advantage_std=float(state.tensors["adaptation"]["advantage_std"]),
            early_weight=self.inner.early_weight_at(state.counters["iteration"]),
        )
        update = self._outer_step(state, objective)
        watch.lap("outer_step")

        # Update the statistics of observations and advantages.
        update.groups.update(self._statistics(state, batch, ranks))
        update.metrics.update(_theta_metrics(update.groups["theta"]))
        return iteration_result(state, [played], update, ranks, watch, "outer/failed")

    def after_training(
        self, state: LearnerState, collector: Collector, streams: RandomStreams, ranks: Ranks
    ) -> LearnerState:
        """Choose the step sizes outside training, unless settings fix them or there is no step."""
        is_fixed = bool(self.inner.test_step_sizes) or not self.inner.choose_test_step_sizes
        if is_fixed or self.num_training_stages == 1:
            return state
        return with_chosen_factors(self, state, collector, streams, ranks)

    def _outer_step(self, state: LearnerState, objective: MetaObjective) -> Update:
        """Take the outer step; if it fails, keep theta and the outer step's state."""
        theta, outer_state = state.tensors["theta"], dict(state.tensors["outer"])
        unchanged = Update({"theta": theta, "outer": outer_state}, {}, OUTER_STEP)
        step = outer_step_of(self.outer).step
        try:
            config = self.outer.at(state.counters["iteration"])
            theta, outer_state, metrics = step(theta, outer_state, objective, config)
        except FloatingPointError as error:
            return unchanged._replace(detail=one_line(str(error)))
        # Refuse non-finite results.
        numbers = [float(value) for value in metrics.values()]
        results = torch.tensor(numbers), *theta.values(), *outer_state.values()
        if not all(value.isfinite().all() for value in results):
            finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
            return unchanged._replace(metrics=finite)
        # A zero gradient, as with equal returns, leaves nothing to improve: not a failure.
        has_gradient = metrics.get("outer/gradient_norm") != 0
        if metrics.get("outer/accepted") == 0 and has_gradient:
            return unchanged._replace(metrics=metrics, failure=LINE_SEARCH)
        return Update({"theta": theta, "outer": outer_state}, metrics)

    def _statistics(
        self, state: LearnerState, batch: MetaBatch, ranks: Ranks
    ) -> dict[str, Mapping[str, Tensor]]:
        """Return the groups of the normaliser and of the scale of advantages, if they are used."""
        groups: dict[str, Mapping[str, Tensor]] = {}
        normalizer = state.normalizer
        if normalizer is not None:
            observations = [
                without_latents(stage.real_observations, self.policy.latent_size)
                for stage in (*batch.supports, batch.query)
            ]
            updated = normalizer.updated(observations, ranks, are_normalized=True)
            groups["normalizer"] = updated._asdict()
        if self.inner.shared_advantage_scale:
            adaptation = state.tensors["adaptation"]
            std = _advantage_std(batch.supports, ranks).to(adaptation["advantage_std"])
            # If no advantage varies, keep the last scale.
            std = torch.where(std > 0, std, adaptation["advantage_std"])
            groups["adaptation"] = {**adaptation, "advantage_std": std}
        return groups

    def check(self, state: LearnerState, source: Path) -> None:
        """Refuse a state of another architecture or outer step, and values that are not finite."""
        expected = self.initial_state().tensors
        for group in self.ACTING:
            check_group(state.tensors[group], expected[group], group, source)
            check_statistics(state.tensors[group], group, source)
        for name in ("advantage_std", "test_factors"):
            value = state.tensors["adaptation"][name]
            if not (value > 0).all():
                raise UserError(f"{name} in {source} must be positive, got {value.tolist()}")
        check_group(state.tensors["outer"], expected["outer"], "outer step's state", source)

    def notice(self, num_env_steps: int) -> str | None:
        """Return lines on the baseline's features, and on settings that hardly work together."""
        notices = [baseline_notice(self.policy.observation_shape, num_env_steps)]
        gae_lambda = self.inner.gae_lambda
        gae_lambda = self.baseline.gae_lambda if gae_lambda is None else gae_lambda
        if self.policy.latent_size > 0 and gae_lambda < 1:
            notices.append(
                f"notice: with a lambda of {gae_lambda:g} the latent variable gets credit for the "
                "beginning of each episode only; --inner.gae_lambda 1 gives it the whole return"
            )
        notices.append(self.outer.notice(self.inner, self.num_training_stages - 1))
        return "\n".join(notice for notice in notices if notice) or None

    def describe(self, state: LearnerState) -> dict[str, Any]:
        """Return the step sizes outside training."""
        return describe_schedule(self.inner, state)

    def plain_network(
        self, state: LearnerState, belief: Belief, action_map: ActionMap
    ) -> PlainNetwork:
        """Return the adapted policy, if it is a multilayer perceptron."""
        theta = {name: value[0] for name, value in belief.items()}
        return self.policy.plain_network(theta, state.normalizer, action_map)

    def plain_module(
        self, state: LearnerState, belief: Belief, action_map: ActionMap
    ) -> PlainModule:
        """Return the adapted policy."""
        theta = {name: value[0] for name, value in belief.items()}
        return self.policy.plain_module(theta, state.normalizer, action_map)


def _advantage_std(supports: Sequence[Episodes], ranks: Ranks) -> Tensor:
    """Root mean square of the advantages of all inner steps and tasks, (1,)."""
    sums = [
        torch.stack(
            # In float64: the squares of large rewards overflow float32.
            [(e.inner_advantages.double().square() * e.mask).sum((1, 2)), e.num_steps],
            dim=1,
        )
        for e in supports
    ]
    squares, num_steps = ranks.mean(torch.stack(sums).sum(0))
    return (squares / num_steps).sqrt()[None]


def _valid_part(trial: Trial) -> MetaBatch:
    """Episodes and parameters of the tasks that did not fail."""
    *supports, query = trial.episodes
    batch = MetaBatch(tuple(supports), query, tuple(trial.beliefs))
    failed = trial.failed_tasks.mask
    return batch.chosen(~failed) if failed.any() else batch


def _theta_metrics(theta: Mapping[str, Tensor]) -> dict[str, float]:
    """Learned step sizes, and standard deviations of the policy and of its latent variable."""
    metrics = {}
    learned = [value.flatten() for name, value in theta.items() if name.startswith(STEP_SIZE)]
    if learned:
        sizes = torch.cat(learned)
        metrics["train/step_size_mean"] = float(sizes.mean())
        metrics["train/step_size_min"] = float(sizes.min())
        metrics["train/step_size_max"] = float(sizes.max())
    if "log_std" in theta:
        metrics["train/policy_std"] = float(theta["log_std"].exp().mean())
    if LATENT_LOG_STD in theta:
        metrics["train/latent_std"] = float(theta[LATENT_LOG_STD].exp().mean())
    return metrics
