"""Play PEARL's policy, with one z per episode."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.pearl.context_encoder import Posterior
from maml_rl.learners.pearl.networks import Networks
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.sampling.actors import Actor, Memory, memory_tensors


class LatentActor(Actor):
    """Plays π(a | s, z); it remembers the z of each episode.

    Its inputs in episodes are raw observations as vectors, because the replay outlives the
    statistics that normalise them.

    Args:
        networks: the architecture.
        theta: parameters of the actor.
        posterior: of z, for T tasks.
        noise: standard normal (T, E, H, action_size + latent_size), for the actions and, at first
            steps, for z; ``None`` for tanh of the mean, and the posterior's mean for z.
        normalizer: of observations.
        action_scale: by which actions in [−1, 1] are divided to give the outputs.
        memory: z to continue with, instead of a new one.
    """

    def __init__(
        self,
        networks: Networks,
        theta: Params,
        posterior: Posterior,
        noise: Tensor | None,
        normalizer: ObservationNormalizer | None,
        action_scale: float,
        memory: Memory | None = None,
    ) -> None:
        self._networks = networks
        self._theta = theta
        self._posterior = posterior
        self._noise = noise
        self._normalizer = normalizer
        self._action_scale = action_scale
        self._remembered = memory

    def start(self, episodes: slice) -> None:
        """Begin a round: draw z of each episode."""
        number, size = episodes.stop - episodes.start, self._networks.action_size
        noise = None if self._noise is None else self._noise[:, episodes]
        # Of one step at a time, (H, T·E, action_size).
        self._action_noise = (
            None if noise is None else noise[..., :size].movedim(2, 0).flatten(1, 2).contiguous()
        )
        mean, variance = (value[:, None].expand(-1, number, -1) for value in self._posterior)
        if self._remembered is not None:
            sizes = [self._networks.latent_size]
            (self._latents,) = memory_tensors(self._remembered, sizes, self._posterior.mean)
        elif noise is None:
            self._latents = mean.flatten(0, 1)
        else:
            self._latents = Posterior(mean, variance).sample(noise[:, :, 0, size:]).flatten(0, 1)

    @property
    def memory(self) -> Memory:  # type: ignore[override]
        """The z of each episode."""
        return (self._latents.cpu().numpy(),)

    @torch.no_grad()
    def act(self, observations: np.ndarray, t: int) -> np.ndarray:
        """Return outputs (T·E, action_size), which span the whole range of actions."""
        x = torch.from_numpy(observations).to(self._latents)
        return self.act_on_tensors(x, t).cpu().numpy()

    @torch.no_grad()
    def act_on_tensors(self, observations: Tensor, t: int) -> Tensor:
        """Return outputs (T·E, action_size), which span the whole range of actions."""
        x = observations.flatten(1)
        x = x if self._normalizer is None else self._normalizer.normalize(x)
        distribution = self._networks.actions(self._theta, x, self._latents)
        if self._action_noise is None:
            actions = distribution.mode()
        else:
            actions, _ = distribution.sample(self._action_noise[t])
        return actions / self._action_scale

    def inputs(self, observations: Tensor) -> Tensor:
        """Return raw observations as vectors."""
        return observations.flatten(3)
