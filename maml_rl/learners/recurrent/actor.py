"""Play a policy with a memory step by step, and remember episodes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maml_rl.errors import UserError
from maml_rl.learners.base import Belief
from maml_rl.learners.recurrent.sequence import trial_sequence
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.policies.recurrent.memory import MemoryPolicy, action_distribution
from maml_rl.sampling.actors import Actor, Memory, memory_tensors
from maml_rl.sampling.episodes import Episodes
from maml_rl.system.thread_pool import block_ends, map_blocks


class RecurrentActor(Actor):
    """Plays a policy with a memory.

    Its memory has two arrays: that of the policy (T·E, memory_size), and what came before the next
    step (T·E, previous_size): action, reward, and end of an episode. Until :meth:`observe` is
    called, the reward is NaN. The memory of an episode that is over does not change any more.

    Args:
        policy: the architecture.
        theta: parameters.
        belief: about T tasks: ``memory`` (T, memory_size) and ``previous`` (T, previous_size).
        noise: standard noise (T, E, H, ...); ``None`` for the most probable actions.
        normalizer: of observations.
        memory: to continue with, instead of the belief.
    """

    def __init__(
        self,
        policy: MemoryPolicy,
        theta: Params,
        belief: Belief,
        noise: Tensor | None,
        normalizer: ObservationNormalizer | None,
        memory: Memory | None = None,
    ) -> None:
        self._policy = policy
        self._theta = theta
        self._belief = belief
        self._noise = noise
        self._normalizer = normalizer
        self._remembered = memory
        self._round_noise: Tensor | None = None

    def start(self, episodes: slice) -> None:
        """Begin a round."""
        if self._noise is not None:  # of one step at a time, (H, T·E, 1, ...)
            noise = self._noise[:, episodes].movedim(2, 0)
            self._round_noise = noise.flatten(1, 2)[:, :, None].contiguous()
        if self._remembered is None:
            # Every episode of a task starts with the belief about it.
            number = episodes.stop - episodes.start
            self._memory, self._previous = (
                self._belief[name].repeat_interleave(number, dim=0)
                for name in ("memory", "previous")
            )
        else:
            sizes = [self._policy.memory_size, self._policy.previous_size]
            like = self._belief["memory"]
            self._memory, self._previous = memory_tensors(self._remembered, sizes, like)
        self._is_over = torch.zeros(len(self._memory), dtype=torch.bool, device=self._device)
        self._unseen = self._previous.new_tensor([torch.nan, 0])

    @property
    def _device(self) -> torch.device:
        return self._belief["memory"].device

    @property
    def memory(self) -> Memory:  # type: ignore[override]
        """Memory of the policy, and what came before the next step."""
        return self._memory.cpu().numpy(), self._previous.cpu().numpy()

    @torch.no_grad()
    def act(self, observations: np.ndarray, t: int) -> np.ndarray:
        """Return the outputs of the policy.

        Raises:
            UserError: if the reward of the last step has not been observed.
        """
        if torch.isnan(self._previous[~self._is_over]).any():
            raise UserError(
                "this agent remembers rewards: pass reward (that of its last action) and ended "
                "(whether it ended an episode)"
            )
        x = torch.from_numpy(observations).to(self._memory)
        return self.act_on_tensors(x, t).cpu().numpy()

    @torch.no_grad()
    def act_on_tensors(self, observations: Tensor, t: int) -> Tensor:
        """Return the outputs of the policy."""
        policy, theta, live = self._policy, self._theta, ~self._is_over[:, None]
        x = observations.flatten(1)
        x = x if self._normalizer is None else self._normalizer.normalize(x)
        # Remember the step before, and the observation.
        new = policy.step(theta, self._memory, policy.encode(theta, x, self._previous))
        self._memory = torch.where(live, new, self._memory)
        # Choose actions.
        outputs = policy.outputs_of(self._memory)
        dist = action_distribution(policy, theta, outputs[:, None], x[:, None])
        actions = dist.mode() if self._round_noise is None else dist.sample(self._round_noise[t])
        encoded = policy.action_head.encoded(actions[:, 0])
        previous = torch.cat([encoded, self._unseen.expand(len(encoded), 2)], dim=-1)
        self._previous = torch.where(live, previous, self._previous)
        return actions[:, 0]

    def observe(self, rewards: np.ndarray, ended: np.ndarray) -> None:
        """Remember rewards and ends of episodes."""
        over = torch.from_numpy(np.array(ended, bool)).to(self._device)
        self.observe_tensors(torch.from_numpy(np.array(rewards)).to(self._device), over)

    def observe_tensors(self, rewards: Tensor, ended: Tensor) -> None:
        """Remember rewards and ends of episodes."""
        # A reward that is not finite ends its episode, which is then discarded.
        rewards = rewards.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).to(self._previous)
        results = torch.stack([rewards, ended.to(rewards)], dim=1)
        changed = torch.cat([self._previous[:, :-2], results], dim=-1)
        self._previous = torch.where(self._is_over[:, None], self._previous, changed)
        self._is_over = self._is_over | ended

    def inputs(self, observations: Tensor) -> Tensor:
        """Return observations as vectors, normalised if the policy normalises."""
        vectors = observations.flatten(3)
        return vectors if self._normalizer is None else self._normalizer.normalize(vectors)


def belief_after(
    policy: MemoryPolicy, theta: Params, belief: Belief, episodes: Episodes, block_size: int
) -> Belief:
    """Return ``memory`` and ``previous`` after episodes that follow one another.

    Args:
        policy: the architecture.
        theta: parameters.
        belief: before the episodes, of T tasks.
        episodes: of these tasks.
        block_size: tasks that are computed at once.
    """
    sequence = trial_sequence([episodes], belief["previous"], policy.action_head)

    def of_block(start: int, stop: int) -> Tensor:
        block = sequence.chosen(slice(start, stop))
        inputs = policy.encode(theta, block.observations, block.previous)
        memory = belief["memory"][start:stop]
        # Step by step, as an actor does: a trial that has ended keeps its memory.
        for step_inputs, is_real in zip(inputs.unbind(1), block.mask.unbind(1), strict=True):
            new = policy.step(theta, memory, step_inputs)
            memory = torch.where(is_real[:, None] > 0, new, memory)
        return memory

    blocks = block_ends(len(sequence.mask), block_size)
    return {"memory": torch.cat(map_blocks(of_block, blocks)), "previous": sequence.last}
