"""A policy with a memory as a torch module whose memory is an input and an output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maml_rl.policies.action_head import bounded_log_std
from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.policies.plain_network import PlainModule, gain_and_offset
from maml_rl.policies.recurrent.memory import MemoryPolicy


def recurrent_module(
    policy: MemoryPolicy,
    theta: Params,
    memory: Tensor,
    previous: Tensor,
    normalizer: ObservationNormalizer | None,
    action_map: ActionMap,
) -> PlainModule:
    """Return a policy, its normaliser and its action map in one module on the CPU.

    Args:
        policy: the architecture.
        theta: its parameters; those of the value network are left out.
        memory: of the policy, to begin with, (memory_size,).
        previous: what came before the first step, (previous_size,).
        normalizer: of observations, or ``None``.
        action_map: from the policy's outputs to the environment's actions.
    """
    theta = {
        name: value.detach().cpu() for name, value in theta.items() if not name.startswith("value_")
    }
    gain = offset = log_std = None
    if not policy.action_head.discrete:
        gain, offset = gain_and_offset(action_map)
        log_std = bounded_log_std(theta["log_std"][None])[0, 0]
        log_std = (log_std.double() + gain.log()).float()
    module = _RecurrentModule(policy, theta, normalizer, gain, offset)
    before = torch.cat([memory, previous]).cpu()
    start = (before[:-2].clone(), before[-2:].clone())
    return PlainModule(module, log_std, (policy.observation_size,), start)


class _RecurrentModule(nn.Module):
    """A policy with a memory from raw observations to actions, or to logits.

    The module's memory is the policy's and the last action.

    Args:
        policy: the architecture.
        theta: parameters, on the CPU.
        normalizer: of observations, or ``None``.
        gain: of the action map; ``None`` for logits.
        offset: of the action map; ``None`` for logits.
    """

    mean: Tensor
    std: Tensor
    gain: Tensor
    offset: Tensor

    def __init__(
        self,
        policy: MemoryPolicy,
        theta: Params,
        normalizer: ObservationNormalizer | None,
        gain: Tensor | None,
        offset: Tensor | None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.theta = nn.ParameterDict({name: value.clone() for name, value in theta.items()})
        self.normalizes = normalizer is not None
        self.maps_actions = gain is not None
        if normalizer is not None:
            self.register_buffer("mean", normalizer.mean.cpu().float())
            self.register_buffer("std", normalizer.std.cpu().float())
        if gain is not None and offset is not None:
            self.register_buffer("gain", gain.float())
            self.register_buffer("offset", offset.float())

    def forward(self, observation: Tensor, memory: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions or logits (N, size), and the memory after the step.

        Args:
            observation: raw, (N, observation_size).
            memory: before the step, (N, memory_size + size).
            result: reward of the last action, and 1 if it ended an episode, (N, 2).
        """
        policy, theta = self.policy, dict(self.theta.items())
        if self.normalizes:
            observation = (observation - self.mean) / self.std
        # Remember the step before, and the observation.
        state, action = memory.split((policy.memory_size, policy.action_head.size), dim=-1)
        previous = torch.cat([action, result], dim=-1)
        state = policy.step(theta, state, policy.encode(theta, observation, previous))
        # Choose the most probable action.
        outputs = policy.means_or_logits(theta, policy.outputs_of(state), observation)
        head = policy.action_head
        action = head.encoded(outputs.argmax(-1)) if head.discrete else outputs
        if self.maps_actions:
            outputs = outputs * self.gain + self.offset
        return outputs, torch.cat([state, action], dim=-1)
