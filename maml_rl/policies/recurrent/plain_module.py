"""A policy with a memory as a torch module whose memory is an input and an output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maml_rl.policies.action_map import ActionMap
from maml_rl.policies.normalizer import ObservationNormalizer
from maml_rl.policies.parameters import Params
from maml_rl.policies.plain_network import PlainModule, input_module, output_module
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
    to_actions, log_std = output_module(theta, policy.action_head, action_map)
    module = _RecurrentModule(policy, theta, input_module(normalizer), to_actions)
    before = torch.cat([memory, previous]).cpu()
    start = (before[:-2].clone(), before[-2:].clone())
    return PlainModule(module, log_std, (policy.observation_size,), start)


class _RecurrentModule(nn.Module):
    """A policy with a memory from raw observations to actions, or to logits.

    The module's memory is the policy's and the last action.

    Args:
        policy: the architecture.
        theta: parameters, on the CPU.
        to_inputs: from raw observations to those that the policy reads.
        to_actions: from the policy's outputs to actions, or to logits.
    """

    def __init__(
        self, policy: MemoryPolicy, theta: Params, to_inputs: nn.Module, to_actions: nn.Module
    ) -> None:
        super().__init__()
        self.policy = policy
        self.theta = nn.ParameterDict({name: value.clone() for name, value in theta.items()})
        self.to_inputs = to_inputs
        self.to_actions = to_actions

    def forward(self, observation: Tensor, memory: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions or logits (N, size), and the memory after the step.

        Args:
            observation: raw, (N, observation_size).
            memory: before the step, (N, memory_size + size).
            result: reward of the last action, and 1 if it ended an episode, (N, 2).
        """
        policy, theta = self.policy, dict(self.theta.items())
        observation = self.to_inputs(observation)
        # Remember the step before, and the observation.
        state, action = memory.split((policy.memory_size, policy.action_head.size), dim=-1)
        previous = torch.cat([action, result], dim=-1)
        state = policy.step(theta, state, policy.encode(theta, observation, previous))
        # Choose the most probable action.
        outputs = policy.means_or_logits(theta, policy.outputs_of(state), observation)
        head = policy.action_head
        action = head.encoded(outputs.argmax(-1)) if head.discrete else outputs
        return self.to_actions(outputs), torch.cat([state, action], dim=-1)
