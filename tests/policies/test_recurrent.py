"""The recurrent policy against equations written out step by step, and its hypernetwork."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from helpers.recurrent import (
    OBSERVATION_SIZE,
    VARIANTS,
    along_trials,
    make_batch,
    make_policy,
    make_sequence,
    make_stages,
    make_theta,
    plain_trial,
)
from torch import Tensor

from maml_rl.policies.recurrent.hypernetwork import generated_layer, initial_hypernetwork
from maml_rl.policies.recurrent.memory import action_distribution
from maml_rl.policies.recurrent.network import RecurrentPolicy
from maml_rl.settings.learners.rl2 import Cell

variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
cells = pytest.mark.parametrize("cell", get_args(Cell))


# --- Against the equations ---


@variants
def test_whole_trials_equal_the_equations(options: dict[str, Any]) -> None:
    """Early ends, padding with garbage, and the memory over the border of two episodes."""
    policy = make_policy(**options)
    theta = make_theta(policy)
    batch = make_batch(policy, theta, garbage=3.0)
    sequence = batch.sequence
    dist, values = along_trials(policy, theta, sequence, batch.tasks)
    log_probs, entropies = dist.log_prob(sequence.actions), dist.entropy().expand_as(values)
    stages = make_stages(policy)
    for i in range(4):
        task = None if batch.tasks is None else batch.tasks[i]
        steps = plain_trial(policy, theta, stages, i, task)
        assert len(steps) == int(sequence.mask[i].sum())
        for t, step in enumerate(steps):
            expected = [step.value, step.log_prob(sequence.actions[i, t]), step.entropy()]
            actual = [values[i, t], log_probs[i, t], entropies[i, t]]
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@variants
def test_step_by_step_equals_the_whole(options: dict[str, Any]) -> None:
    policy = make_policy(**options)
    theta = make_theta(policy)
    sequence = make_sequence(policy)
    inputs = policy.encode(theta, sequence.observations, sequence.previous)
    start = torch.from_numpy(np.random.default_rng(3).standard_normal((4, policy.memory_size)))
    outputs, last = policy.unroll(theta, start, inputs)
    memory = start
    for t in range(inputs.shape[1]):
        memory = policy.step(theta, memory, inputs[:, t])
        torch.testing.assert_close(policy.outputs_of(memory), outputs[:, t])
    torch.testing.assert_close(memory, last)


@cells
def test_the_cell_is_that_of_torch(cell: str) -> None:
    """With its weights in a module of torch, by name."""
    policy = make_policy(cell=cell)
    theta = make_theta(policy)
    module = {"gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}[cell](64, 4, dtype=torch.float64)
    module.load_state_dict({name: theta[f"cell_{name}"] for name in module.state_dict()})
    rng = np.random.default_rng(0)
    memory = torch.from_numpy(rng.standard_normal((5, policy.memory_size)))
    inputs = torch.from_numpy(rng.standard_normal((5, 64)))
    expected = module(inputs, memory if cell == "gru" else tuple(memory.split(4, dim=-1)))
    expected = expected if cell == "gru" else torch.cat(expected, dim=-1)
    torch.testing.assert_close(policy.step(theta, memory, inputs), expected)


def test_policy_and_value_read_the_observation_without_the_memory() -> None:
    """The skip connection: with outputs of the cell held fixed, both depend on it."""
    policy = make_policy()
    theta = make_theta(policy)
    observations = make_sequence(policy).observations
    outputs = torch.zeros(*observations.shape[:2], 4, dtype=torch.float64)
    for function in (
        lambda x: action_distribution(policy, theta, outputs, x).mode(),
        lambda x: policy.values(theta, outputs, x, None),
    ):
        assert not function(observations).equal(function(observations + 1))


# --- Initial parameters ---


def test_initial_parameters_are_scaled_by_their_layers() -> None:
    policy = make_policy(hidden_size=16, generated=("policy",), latent_size=7)
    theta = policy.initial_parameters(np.random.default_rng(0))
    bounds = {
        "observation_encoder_weight": (6 / (OBSERVATION_SIZE + 32)) ** 0.5,
        "reward_encoder_weight": (6 / (2 + 16)) ** 0.5,
        "cell_weight_ih": 1 / 4,
        "cell_weight_hh": 1 / 4,
        "cell_bias_ih": 1 / 4,
        "policy_0_weight": (6 / (OBSERVATION_SIZE + 5)) ** 0.5,
        "policy_latent_weight": (6 / (16 + 7)) ** 0.5,
        "value_0_weight": (6 / (OBSERVATION_SIZE + 16 + 5)) ** 0.5,
    }
    for name, bound in bounds.items():
        assert 0.8 * bound < float(theta[name].abs().max()) <= bound, name
    zero = {name for name, value in theta.items() if not value.any()}
    assert zero == {name for name in theta if name.endswith(("_bias", "_hypernetwork"))}
    assert theta["log_std"].tolist() == pytest.approx([np.log(0.7)] * 2)
    again = policy.initial_parameters(np.random.default_rng(0))
    assert all(value.equal(again[name]) for name, value in theta.items())


# --- Hypernetwork ---


def test_a_generated_layer_is_that_of_the_explicit_weights() -> None:
    """W(z) = Σ_k z_k V_k and b(z) = Σ_k z_k c_k, at every state its own."""
    rng = np.random.default_rng(0)
    hyper, latent, x = (
        torch.from_numpy(rng.standard_normal(shape)) for shape in ((3, 5, 2), (6, 7, 3), (6, 7, 4))
    )
    weights = torch.einsum("...k,kij->...ij", latent, hyper[:, :-1])
    biases = latent @ hyper[:, -1]
    expected = (x[..., None, :] @ weights)[..., 0, :] + biases
    torch.testing.assert_close(generated_layer(hyper, latent, x), expected)


def outputs_of_memories(
    policy: RecurrentPolicy, theta: dict[str, Tensor], observations: Tensor
) -> Tensor:
    """Outputs of ``policy`` (40, S, A) for 40 random memories at observations (S, ...)."""
    rng = np.random.default_rng(1)
    memories = torch.from_numpy(rng.uniform(-1, 1, (40, 1, policy.hidden_size)))
    memories = memories.expand(-1, len(observations), -1)
    return action_distribution(policy, theta, memories, observations.expand(40, -1, -1)).mode()


def test_every_memory_starts_with_the_same_well_scaled_network() -> None:
    """Bias-HyperInit: that of a plain network with the weights W₀ and b₀."""
    policy = make_policy(
        generated=("policy",), hidden_size=32, hidden_sizes=(16, 16), latent_size=25
    )
    rng = np.random.default_rng(0)
    theta = {name: value.double() for name, value in policy.initial_parameters(rng).items()}
    observations = torch.from_numpy(rng.standard_normal((50, OBSERVATION_SIZE)))
    outputs = outputs_of_memories(policy, theta, observations)
    x = observations
    for i in range(3):
        x = torch.tanh(x) if i > 0 else x
        x = x @ theta[f"policy_{i}_weight"] + theta[f"policy_{i}_bias"]
    torch.testing.assert_close(outputs, x.expand_as(outputs))

    # Glorot-uniform V and c, and W₀ = b₀ = 0: memories differ, and outputs are off their scale.
    other = dict(theta)
    for i in range(3):
        fan_in, fan_out = theta[f"policy_{i}_weight"].shape
        bound = (6 / (25 + fan_in * fan_out)) ** 0.5
        hyper = rng.uniform(-bound, bound, (25, fan_in + 1, fan_out))
        other[f"policy_{i}_hypernetwork"] = torch.from_numpy(hyper)
        other[f"policy_{i}_weight"] = torch.zeros(fan_in, fan_out, dtype=torch.float64)
        other[f"policy_{i}_bias"] = torch.zeros(fan_out, dtype=torch.float64)
    unscaled = outputs_of_memories(policy, other, observations)
    assert float(outputs.std(0).max()) < 1e-12
    assert float(unscaled.std(0).mean()) > 0.5 * float(unscaled.std())
    scale, plain_scale = float(unscaled.std()), float(x.std())
    assert max(scale / plain_scale, plain_scale / scale) > 2


def test_a_new_hypernetwork_adds_nothing_and_learns() -> None:
    """V is zero, but its gradient is not, if z is not."""
    policy = make_policy(generated=("policy", "value"), latent_size=3)
    theta = policy.initial_parameters(np.random.default_rng(0))
    assert theta["policy_0_hypernetwork"].equal(initial_hypernetwork(3, OBSERVATION_SIZE, 5))
    sequence = make_sequence(policy)
    leaves = {name: value.double().requires_grad_() for name, value in theta.items()}
    dist, values = along_trials(policy, leaves, sequence)
    (dist.log_prob(sequence.actions) + values).sum().backward()
    for name, value in leaves.items():
        if name.endswith("_hypernetwork"):
            assert value.grad.abs().max() > 0.01, name


# --- What policy and value observe ---


@pytest.mark.parametrize("generated", [(), ("policy", "value")])
def test_only_the_value_observes_the_task(generated: tuple[str, ...]) -> None:
    policy = make_policy(task_size=2, generated=generated, latent_size=3)
    theta = make_theta(policy)
    batch = make_batch(policy, theta)
    dist, values = along_trials(policy, theta, batch.sequence, batch.tasks)
    other_dist, other_values = along_trials(policy, theta, batch.sequence, batch.tasks + 1)
    assert all(a.equal(b) for a, b in zip(dist, other_dist, strict=True))
    assert (values != other_values).all()


# --- Truncated backpropagation ---


@cells
@pytest.mark.parametrize("truncation", [None, 1, 3, 5, 100])
def test_no_gradient_flows_over_a_cut(cell: str, truncation: int | None) -> None:
    """The policy at step t depends on inputs at s ≤ t; gradients flow from the last cut on."""
    policy = make_policy(cell=cell)
    theta = make_theta(policy)
    sequence = make_sequence(policy)
    length = sequence.mask.shape[1]
    observations = sequence.observations.clone().requires_grad_()
    sequence = sequence._replace(observations=observations)
    dist, values = along_trials(policy, theta, sequence, None, truncation)
    whole, whole_values = along_trials(policy, theta, sequence)
    torch.testing.assert_close(dist.mode(), whole.mode())
    torch.testing.assert_close(values, whole_values)
    for t in range(length):
        loss = dist.mode()[:, t].sum() + values[:, t].sum()
        (gradient,) = torch.autograd.grad(loss, observations, retain_graph=True)
        start = 0 if truncation is None else t // truncation * truncation
        flows = gradient.abs().sum((0, 2)) > 0
        assert flows.tolist() == [start <= s <= t for s in range(length)]
