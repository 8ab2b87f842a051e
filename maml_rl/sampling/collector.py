"""Roll T stacked policies in a vector environment, E episodes each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.distributions import Distribution
from maml_rl.policies.mlp import MLPPolicy, distribution
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.sampling.actors import actor
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import ACTION, OBSERVATION, REWARD, SIMULATION, Failures
from maml_rl.sampling.task_vector_env import TaskVectorEnv
from maml_rl.settings.drawn_tasks import Task
from maml_rl.system.random_streams import RandomStreams
from maml_rl.system.thread_pool import block_ends, map_blocks, tasks_per_block
from maml_rl.system.torch_runtime import torch_threads

_CAUSES = ("", SIMULATION, OBSERVATION, ACTION, REWARD)
"""Why an episode is void, by number; 0 where it is not."""


@dataclass(frozen=True)
class Collector:
    """How episodes are collected: everything that stays the same over a run.

    Args:
        env: sub-environments in the order of the tasks, equally many for each. With fewer than T·E
            of them, episodes are played in rounds.
        policy: the architecture.
        num_tasks: T.
        num_episodes: E, per task.
        horizon: H, the longest episode.
        action_map: from outputs to actions.
        device: of the policy and of the episodes.
        first_task: number of the first of the T among the tasks of all processes, which share out
            the random numbers.
        num_tasks_of_all: number of these; default is T.
        check_stop: called before each collection; may raise to stop the run.

    Raises:
        UserError: the sub-environments cannot be shared out evenly.
    """

    env: TaskVectorEnv
    policy: MLPPolicy
    num_tasks: int
    num_episodes: int
    horizon: int
    action_map: ActionMap
    device: torch.device
    first_task: int = 0
    num_tasks_of_all: int | None = None
    check_stop: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        if self.env.num_envs % self.num_tasks or self.num_episodes % self.episodes_per_round:
            raise UserError(
                f"{self.num_tasks} tasks with {self.num_episodes} episodes each cannot be played "
                f"in equal rounds on "
                f"{self.env.num_envs} sub-environments"
            )

    @property
    def episodes_per_round(self) -> int:
        """Episodes of a task that are played side by side."""
        return self.env.num_envs // self.num_tasks

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give task i, i < T, to the sub-environments that play it.

        Raises:
            UserError: the environment does not take one.
        """
        try:
            self.env.set_tasks([task for task in tasks for _ in range(self.episodes_per_round)])
        except ValueError as error:
            raise UserError(str(error)) from error

    @torch.no_grad()
    def collect(
        self,
        stack: Params,
        streams: RandomStreams,
        adaptation_step: int,
        normalizer: ObservationNormalizer | None,
        failures: Failures | None = None,
    ) -> Episodes:
        """Play E episodes of every task, each task with its own parameters.

        An episode whose simulation breaks down, or that shows an observation, action or reward that
        is not finite, is
        void: nothing of it is used, and the others go on as if it were not there.

        Args:
            stack: parameters, each (T, ...).
            streams: of random numbers, for this iteration.
            adaptation_step: number of inner steps behind ``stack``; it names the streams.
            normalizer: of observations, fixed meanwhile.
            failures: told why episodes are void.

        Returns:
            The episodes, without advantages.
        """
        self.check_stop()
        noise = self._noise(streams, adaptation_step, stack)
        seeds = self._reset_seeds(streams, adaptation_step)
        with torch_threads(1):  # idle workers spin, and would take the simulator's processors
            rounds = []
            for first in range(0, self.num_episodes, self.episodes_per_round):
                part = slice(first, first + self.episodes_per_round)
                rounds.append(self._round(stack, noise[:, part], seeds[:, part], normalizer))
        observations, actions, rewards, mask, cause, success = (
            torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
            for parts in zip(*rounds, strict=True)
        )
        log_probs, dist = self._densities(stack, observations, actions)
        has_log_probs = (log_probs.isfinite() | (mask == 0)).all(-1)
        if (
            not has_log_probs.all()
        ):  # parameters so large that only the density of an action overflows
            cause = torch.where(has_log_probs, cause, _CAUSES.index(ACTION))
            mask = mask * has_log_probs[..., None]
            success = success.masked_fill(~has_log_probs, torch.nan)
            log_probs = log_probs.masked_fill(mask == 0, 0.0)
        void = cause > 0
        if failures is not None and void.any():
            for i, what in enumerate(_CAUSES[1:], 1):
                failures.void_episodes(adaptation_step, what, (cause == i).cpu().numpy())
        return Episodes(
            observations=observations,
            actions=actions,
            rewards=rewards,
            mask=mask,
            distribution=dist,
            log_probs=log_probs,
            void=void,
            success=success,
            advantages=torch.zeros_like(rewards),
        )

    def _reset_seeds(self, streams: RandomStreams, adaptation_step: int) -> np.ndarray:
        """The reset seed of every episode, (T, E); it does not depend on the rounds."""
        num_seeds = (self.num_tasks_of_all or self.num_tasks) * self.num_episodes
        start = streams.reset_seed(adaptation_step, num_seeds) + self.first_task * self.num_episodes
        sizes = self.num_tasks, self.num_episodes
        return np.arange(start, start + self.num_tasks * self.num_episodes).reshape(sizes)

    def _densities(
        self, stack: Params, observations: Tensor, actions: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Log-probabilities (T, E, H) of actions, and what they were drawn from, as the learner computes it again."""

        def of_block(start: int, stop: int) -> tuple[Tensor, Distribution]:
            block = {name: value[start:stop] for name, value in stack.items()}
            dist = distribution(self.policy, block, observations[start:stop].flatten(1, 2))
            return dist.log_prob(actions[start:stop].flatten(1, 2)), dist

        log_probs, dists = zip(
            *map_blocks(of_block, block_ends(self.num_tasks, tasks_per_block(self.device))),
            strict=True,
        )
        shape = observations.shape[:3]
        return torch.cat(log_probs).reshape(shape), tuple(
            torch.cat(values) for values in zip(*dists, strict=True)
        )

    def _round(
        self,
        stack: Params,
        noise: Tensor,
        seeds: np.ndarray,
        normalizer: ObservationNormalizer | None,
    ) -> tuple[Tensor, ...]:
        """One episode in every sub-environment; observations, actions, rewards, mask, cause, success, in task order."""
        horizon, num_envs = self.horizon, self.env.num_envs
        # What belongs to one step lies side by side. A GPU reads page-locked memory by itself.
        act = actor(self.policy, stack, noise.movedim(2, 0).contiguous(), normalizer)
        shape = (horizon, num_envs, self.policy.observation_size)
        observations: np.ndarray = torch.zeros(
            shape, dtype=noise.dtype, pin_memory=noise.is_cuda
        ).numpy()
        actions: list[np.ndarray] = []
        rewards, mask = np.zeros((horizon, num_envs)), np.zeros((horizon, num_envs), bool)
        cause, live = np.zeros(num_envs, np.int8), np.ones(num_envs, bool)
        success = np.full(num_envs, np.nan)
        # One seed where they count up, since an environment need not take a list.
        counts_up = np.count_nonzero(np.diff(seeds.ravel()) != 1) == 0
        with torch.enable_grad():  # an environment may differentiate
            observation, _ = self.env.reset(
                seed=int(seeds.flat[0]) if counts_up else seeds.ravel().tolist()
            )

        def end(is_wrong: np.ndarray, what: str) -> None:
            """Make live episodes void."""
            ended = live & is_wrong
            cause[ended] = _CAUSES.index(what)
            live[ended] = False

        for t in range(horizon):  # counts stand for any() and all(), which take three times as long
            seen = observations[t]
            with np.errstate(
                over="ignore", invalid="ignore"
            ):  # what is no number is dealt with here
                seen[:] = observation
                if np.count_nonzero(np.isfinite(seen)) < seen.size:
                    end(~np.isfinite(seen).all(1), OBSERVATION)
                if np.count_nonzero(cause):  # the policy sees no number that is none
                    seen[cause > 0] = 0
                outputs = act(seen, t)
            is_number: Any = np.isfinite(outputs)
            if np.count_nonzero(is_number) < is_number.size:
                end(~is_number.reshape(num_envs, -1).all(1), ACTION)
            if np.count_nonzero(
                cause
            ):  # nor is one sent to an environment, which might choke on it
                outputs[cause > 0] = 0
            actions.append(outputs)
            mask[t] = live
            actions_sent = self.action_map(outputs)
            with torch.enable_grad():
                observation, rewards[t], terminated, truncated, info = self.env.step(actions_sent)
            void: np.ndarray | None = info.get("void")
            if void is not None and np.count_nonzero(void):
                end(void, SIMULATION)
            if np.count_nonzero(np.isfinite(rewards[t])) < num_envs:
                end(~np.isfinite(rewards[t]), REWARD)
            if "is_success" in info:
                reported = np.asarray(info["is_success"], float)
                is_reported = live & info.get("_is_success", True) & ~np.isnan(reported)
                success = np.where(is_reported, reported, success)
            live &= ~(terminated | truncated)
            if not np.count_nonzero(live):
                break
        mask &= cause == 0
        real, is_all_real = self._of_tasks(mask).to(noise), mask.all()

        def kept(values: Tensor) -> Tensor:
            """Values of all steps (T, E, H, ...), zero where an episode is over or void."""
            if is_all_real:
                return values
            return values.masked_fill_(real.reshape(*real.shape, *[1] * (values.dim() - 3)) == 0, 0)

        seen = self._of_tasks(observations)
        actions += [np.zeros_like(actions[0])] * (horizon - len(actions))
        return (
            kept(seen if normalizer is None else normalizer.normalize(seen)),
            kept(self._of_tasks(np.stack(actions))),
            self._of_tasks(np.where(mask, rewards, 0.0)).to(noise),
            real,
            self._of_tasks(cause),
            self._of_tasks(np.where(cause > 0, np.nan, success)).to(noise),
        )

    def _of_tasks(self, values: np.ndarray) -> Tensor:
        """A value of every sub-environment, (num_envs,) or (H, num_envs, ...), by task: (T, E) or (T, E, H, ...)."""
        sizes, per_step = (self.num_tasks, self.episodes_per_round), values.ndim > 1
        by_task = torch.from_numpy(values).to(self.device).unflatten(int(per_step), sizes)
        return by_task.movedim(0, 2).contiguous() if per_step else by_task

    def _noise(self, streams: RandomStreams, adaptation_step: int, stack: Params) -> Tensor:
        """Action noise, (T, E, H, noise_size), drawn once per task."""

        def of_task(i: int) -> np.ndarray:
            return self.policy.draw_noise(
                streams.actions(adaptation_step, i), (self.num_episodes, self.horizon)
            )

        noise = map_blocks(of_task, [(self.first_task + i,) for i in range(self.num_tasks)])
        return torch.from_numpy(np.stack(noise)).to(next(iter(stack.values())))
