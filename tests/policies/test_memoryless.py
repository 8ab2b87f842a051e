"""The recurrent policy without a memory: every step is the first one of a trial."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest
import torch
from helpers.recurrent import VARIANTS, along_trials, make_batch, make_policy, make_theta
from torch import Tensor

from maml_rl.learners.recurrent.sequence import TrialSequence
from maml_rl.policies.recurrent.memoryless import MemorylessPolicy
from maml_rl.policies.recurrent.network import RecurrentPolicy
from maml_rl.settings.learners.rl2 import Cell


def without_memory(policy: RecurrentPolicy) -> MemorylessPolicy:
    """The same networks."""
    values = {field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)}
    return MemorylessPolicy(**values)


def one_step_trials(sequence: TrialSequence) -> TrialSequence:
    """Each step as a trial of its own, before which nothing came."""
    parts = {
        name: value.flatten(0, 1)[:, None].clone()
        for name, value in sequence._asdict().items()
        if name != "last"
    }
    parts["previous"].zero_()
    return sequence._replace(**parts)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_it_is_the_policy_of_trials_of_one_step(options: dict[str, Any]) -> None:
    """Values, distributions, and the gradient with respect to all parameters."""
    policy = make_policy(**options)
    theta = make_theta(policy)
    batch = make_batch(policy, theta)
    length = batch.sequence.mask.shape[1]
    tasks = None if batch.tasks is None else batch.tasks.repeat_interleave(length, dim=0)

    def results(
        policy: RecurrentPolicy, sequence: TrialSequence, tasks: Tensor | None
    ) -> list[Tensor]:
        leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
        dist, values = along_trials(policy, leaves, sequence, tasks)
        log_probs = dist.log_prob(sequence.actions)
        total = ((values.square() + log_probs) * sequence.mask).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        shown = [values.flatten(), log_probs.flatten()]
        return shown + [torch.zeros(1) if one is None else one for one in gradients]

    expected = results(policy, one_step_trials(batch.sequence), tasks)
    actual = results(without_memory(policy), batch.sequence, batch.tasks)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    with_memory = results(policy, batch.sequence, batch.tasks)
    assert not torch.allclose(actual[1], with_memory[1], rtol=1e-2)


@pytest.mark.parametrize("cell", get_args(Cell))
def test_step_by_step_it_forgets(cell: str) -> None:
    policy = without_memory(make_policy(cell=cell))
    theta = make_theta(policy)
    generator = torch.Generator().manual_seed(0)
    sizes = (3, policy.observation_size), (3, policy.previous_size), (3, policy.memory_size)
    draws = [
        [torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes]
        for _ in range(2)
    ]
    (observations, *_), _ = draws
    memories = [
        policy.step(theta, memory, policy.encode(theta, observations, previous))
        for _, previous, memory in draws
    ]
    assert torch.equal(*memories)
    assert not torch.equal(memories[0], draws[0][2])
