"""Roll T stacked policies in a vector environment, E episodes each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from maml_rl.episodes import Episodes
from maml_rl.normalizer import ObservationNormalizer
from maml_rl.policies import Params, distribution
from maml_rl.protocols import Task, TaskVectorEnv
from maml_rl.random_streams import RandomStreams


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch to the calling thread meanwhile: its idle workers spin, and would take the simulator's processors."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@dataclass(frozen=True)
class ActionMap:
    """From the policy's outputs to the environment's actions.

    A Box action is middle + scale · half-range · output, clipped to the bounds: with ``scale`` 0.1 an output of ±1 spans
    a tenth of the range. The learner sees the output itself. Bounds that are infinite leave the output as it is.
    Discrete actions pass unchanged.
    """

    space: spaces.Space
    scale: float

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Map actions (N, action_size), or (N,) where discrete."""
        if not isinstance(self.space, spaces.Box):
            return actions
        low, high = self.space.low, self.space.high
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            return np.clip(actions, low, high)
        return np.clip((low + high) / 2 + self.scale * (high - low) / 2 * actions, low, high)


@dataclass(frozen=True)
class Collector:
    """How episodes are collected: everything that stays the same over a run.

    Args:
        env: T·E sub-environments; number i·E + j plays episode j of task i.
        policy: the architecture.
        num_episodes: E.
        horizon: H, the longest episode.
        action_map: from outputs to actions.
        device: of the policy and of the episodes.
    """

    env: TaskVectorEnv
    policy: nn.Module
    num_episodes: int
    horizon: int
    action_map: ActionMap
    device: torch.device

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.env.num_envs // self.num_episodes

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give task i, i < T, to the E sub-environments that play it."""
        self.env.set_tasks([task for task in tasks for _ in range(self.num_episodes)])

    @one_torch_thread()
    @torch.no_grad()
    def collect(
        self, stack: Params, streams: RandomStreams, adaptation_step: int, normalizer: ObservationNormalizer | None
    ) -> Episodes:
        """Play E episodes of every task, each task with its own parameters.

        Args:
            stack: parameters, each (T, ...).
            streams: of random numbers, for this iteration.
            adaptation_step: number of inner steps behind ``stack``; it names the streams.
            normalizer: of observations, fixed meanwhile.

        Returns:
            The episodes, without advantages.

        Raises:
            FloatingPointError: an observation, action or reward is not finite, or a task has no valid episode.
        """
        num_tasks, num_episodes, horizon = self.num_tasks, self.num_episodes, self.horizon
        num_envs = num_tasks * num_episodes
        dtype = next(iter(stack.values())).dtype
        noise = self._noise(streams, adaptation_step, dtype)
        observations = torch.zeros(num_tasks, num_episodes, horizon, self.policy.observation_size, dtype=dtype)
        observations = observations.to(self.device)
        rewards, mask = np.zeros((horizon, num_envs)), np.zeros((horizon, num_envs), bool)
        void, live = np.zeros(num_envs, bool), np.ones(num_envs, bool)
        actions: list[Tensor] = []
        observation, _ = self.env.reset(seed=streams.reset_seed(adaptation_step))
        for t in range(horizon):
            seen = torch.from_numpy(observation).reshape(num_tasks, num_episodes, -1).to(self.device, dtype)
            observations[:, :, t] = seen if normalizer is None else normalizer.normalize(seen)
            action = distribution(self.policy, stack, observations[:, :, t]).sample(noise[:, :, t])
            actions.append(action)
            mask[t] = live
            observation, rewards[t], terminated, truncated, info = self.env.step(
                self.action_map(action.flatten(0, 1).cpu().numpy())
            )
            void |= info.get("void", False)
            live = ~(terminated | truncated)
            if not live.any():
                break
        actions += [torch.zeros_like(actions[0])] * (horizon - len(actions))

        def in_order(values: np.ndarray) -> Tensor:  # (H, T·E) to (T, E, H)
            tensor = torch.from_numpy(values).to(self.device, dtype).reshape(horizon, num_tasks, num_episodes)
            return tensor.permute(1, 2, 0).contiguous()

        taken = torch.stack(actions, dim=2)
        # One pass over all states gives what the steps sampled from, in the shape that the learner computes it again.
        dist = distribution(self.policy, stack, observations.flatten(1, 2))
        episodes = Episodes(
            observations=observations,
            actions=taken,
            rewards=in_order(rewards),
            mask=in_order(mask & ~void),
            distribution=tuple(dist),  # type: ignore[arg-type]
            log_probs=dist.log_prob(taken.flatten(1, 2)).reshape(num_tasks, num_episodes, horizon),
            void=torch.from_numpy(void).to(self.device).reshape(num_tasks, num_episodes),
            advantages=in_order(np.zeros_like(rewards)),
        )
        _check(episodes)
        return episodes

    def _noise(self, streams: RandomStreams, adaptation_step: int, dtype: torch.dtype) -> Tensor:
        """Action noise, (T, E, H, noise_size), drawn once per task."""
        shape = (self.num_episodes, self.horizon)
        noise = [self.policy.draw_noise(streams.actions(adaptation_step, i), shape) for i in range(self.num_tasks)]
        return torch.from_numpy(np.stack(noise)).to(self.device, dtype)


def _check(episodes: Episodes) -> None:
    """Stop where a number that is none enters, naming it."""
    real = episodes.mask > 0
    for name in ("observations", "actions", "rewards", "log_probs"):
        values = getattr(episodes, name)
        finite = values.isfinite() if values.dim() == 3 else values.isfinite().all(-1)
        bad = (~finite & real).nonzero()
        if len(bad):
            task, episode, step = bad[0].tolist()
            raise FloatingPointError(f"{name} of task {task}, episode {episode}, step {step} are not finite")
    empty = (episodes.num_steps == 0).nonzero()
    if len(empty):
        raise FloatingPointError(f"every episode of task {int(empty[0])} broke down in the simulator")
