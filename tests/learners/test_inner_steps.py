"""Trust region, learned advantage, shared scale and per-step sizes of inner steps."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.runs import last, tiny
from helpers.synthetic import (
    NUM_TASKS,
    from_vector,
    make_episodes,
    make_meta_batch,
    make_policy,
    make_theta,
    plain_adapt,
    plain_task_kl,
    plain_task_surrogate,
    to_vector,
)
from torch import Tensor

import maml_rl
from maml_rl.learners.adam import initial_state
from maml_rl.learners.advantages import with_advantages
from maml_rl.learners.maml import learner as maml_learner
from maml_rl.learners.maml.inner_step import (
    initial_theta,
    inner_step,
    policy_gradient_step,
    step_sizes,
    trust_region_scale,
)
from maml_rl.learners.maml.learned_advantage import learned_advantages
from maml_rl.learners.maml.learner import MAML
from maml_rl.learners.maml.objective import MetaBatch, MetaObjective, query_kl, ratio_surrogate
from maml_rl.learners.maml.outer.adam import adam_step
from maml_rl.learners.maml.outer.ppo import clipped_surrogate
from maml_rl.learners.maml.outer.reptile import reptile_step
from maml_rl.learners.maml.outer.trpo import fisher_vector_product
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.policies.parameters import make_stack
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import (
    AdamConfig,
    BaselineConfig,
    InnerConfig,
    ReptileConfig,
    TRPOConfig,
)

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def random_theta(policy: MLPPolicy, inner: InnerConfig) -> dict[str, Tensor]:
    """Meta-parameters without zeros: the last layer of psi and the offset start at zero."""
    theta = initial_theta(policy, inner)
    generator = torch.Generator().manual_seed(2)
    return {
        name: value + 0.2 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in theta.items()
    }


def start(
    inner: InnerConfig, discrete: bool = False, seed: int = 0
) -> tuple[MLPPolicy, dict[str, Tensor], Episodes]:
    """A policy, the stack at theta, and episodes that it played."""
    policy = make_policy(discrete)
    stack = make_stack(random_theta(policy, inner), NUM_TASKS)
    return policy, stack, make_episodes(policy, stack, seed=seed)


def of_task(stack: dict[str, Tensor], task: int) -> dict[str, Tensor]:
    return {name: value[task] for name, value in stack.items()}


# --- trust region ---


def test_a_shift_of_the_mean_is_scaled_to_the_bound_exactly() -> None:
    """A shift d of a Gaussian's mean has the KL divergence sum d² / (2 sigma²)."""
    policy, stack, support = start(InnerConfig())
    shift = torch.tensor([[1.0, -2.0], [0.1, 0.0], [-0.5, 0.5]], dtype=torch.float64)
    moved = {**stack, "bias_1": stack["bias_1"] + shift}
    dist = policy.distribution(stack, support.flat(support.observations))
    sigma = stack["log_std"].exp()
    kl = (shift**2 / (2 * sigma**2)).sum(1)
    max_kl = 0.05
    assert (kl > max_kl).tolist() == [True, False, True]
    scale = trust_region_scale(policy, moved, dist, support, max_kl)
    actual = scale[:, None] * shift
    expected = shift * (max_kl / kl).sqrt().clamp(max=1)[:, None]
    torch.testing.assert_close(actual, expected, **CLOSE)
    kl_after = (actual**2 / (2 * sigma**2)).sum(1)
    torch.testing.assert_close(kl_after, kl.clamp(max=max_kl), **CLOSE)


def test_the_factor_is_a_constant_of_first_order_steps() -> None:
    """The Jacobian of a first-order step is the identity, whatever its length."""
    inner = InnerConfig(step_size=0.3, max_kl=1e-3, first_order=True)
    policy, stack, support = start(inner)
    leaves = {name: value.clone().requires_grad_() for name, value in stack.items()}
    moved, _ = policy_gradient_step(policy, leaves, support, inner, 0)
    weights = {name: torch.randn_like(value) for name, value in stack.items()}
    total = sum((weights[name] * moved[name]).sum() for name in stack)
    gradients = torch.autograd.grad(total, list(leaves.values()))
    for gradient, weight in zip(gradients, weights.values(), strict=True):
        torch.testing.assert_close(gradient, weight)


@pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])
def test_a_step_beyond_the_bound_is_shortened_and_keeps_its_direction(discrete: bool) -> None:
    inner = InnerConfig(step_size=0.3, max_kl=0.01 if discrete else 1.0)
    policy, stack, support = start(inner, discrete)
    free = inner_step(policy, stack, support, dataclasses.replace(inner, max_kl=None), 0)
    bounded = inner_step(policy, stack, support, inner, 0)
    kls = torch.stack([plain_task_kl(of_task(free, i), support, i) for i in range(NUM_TASKS)])
    scale = (inner.max_kl / kls).sqrt().clamp(max=1)
    assert 0 < int((scale == 1).sum()) < NUM_TASKS
    for i in range(NUM_TASKS):
        at = to_vector(of_task(stack, i))
        expected = at + scale[i] * (to_vector(of_task(free, i)) - at)
        torch.testing.assert_close(to_vector(of_task(bounded, i)), expected, **CLOSE)


def test_a_bounded_step_of_values_is_a_value() -> None:
    inner = InnerConfig(num_steps=2, step_size=0.3, max_kl=0.1)
    policy = make_policy()
    theta = make_theta(policy)
    batch = make_meta_batch(policy, theta, inner)
    objective = MetaObjective(policy, batch, inner, 2)
    adapted = objective.adapted(make_stack(theta, NUM_TASKS), batch)
    assert not any(value.requires_grad for stack in adapted.stacks for value in stack.values())
    moved, _, _ = reptile_step(theta, {}, objective, ReptileConfig())
    assert not any(value.requires_grad for value in moved.values())


def normal_policy(log_std: float, num_tasks: int) -> tuple[MLPPolicy, dict[str, Tensor]]:
    """Actions ~ N(b, sigma²) at a constant observation of zeros, and a stack with b = 0."""
    head = ActionHead(1, discrete=False)
    policy = MLPPolicy(
        1,
        head,
        rng=np.random.default_rng(0),
        dtype=torch.float64,
        hidden_sizes=(),
        nonlinearity="tanh",
        init_std=1.0,
    )
    theta = {name: torch.zeros_like(value) for name, value in policy.named_parameters()}
    theta["log_std"] += log_std
    return policy, make_stack(theta, num_tasks)


def one_step_episodes(
    policy: MLPPolicy, stack: dict[str, Tensor], num_episodes: int, seed: int
) -> Episodes:
    """Episodes of one step at an observation of zeros, without rewards."""
    num_tasks = len(stack["log_std"])
    observations = torch.zeros(num_tasks, num_episodes, 1, 1, dtype=torch.float64)
    noise = np.random.default_rng(seed).standard_normal((num_tasks, num_episodes, 1))
    with torch.no_grad():
        dist = policy.distribution(stack, observations.flatten(1, 2))
        actions = dist.sample(torch.from_numpy(noise))
        log_probs = dist.log_prob(actions)
    zeros = torch.zeros(num_tasks, num_episodes, 1, dtype=torch.float64)
    return Episodes(
        observations=observations,
        actions=actions[:, :, None],
        rewards=zeros,
        mask=torch.ones_like(zeros),
        distribution=tuple(dist),
        log_probs=log_probs[:, :, None],
        cause=torch.zeros(num_tasks, num_episodes, dtype=torch.int8),
        success=zeros[..., 0],
        terminated=zeros[..., 0],
        last_observations=observations[:, :, -1],
        advantages=zeros,
        inner_advantages=zeros,
    )


def test_a_bound_prevents_harm_at_the_optimum() -> None:
    """Normalised advantages make a step of full size out of noise, also where nothing is to gain.

    The reward is -a², and the mean action is at its optimum 0. The return of N(m, sigma²) is
    -m² - sigma².
    """
    policy, stack = normal_policy(np.log(0.3), 200)
    support = one_step_episodes(policy, stack, 20, seed=0)
    support = dataclasses.replace(support, rewards=-(support.actions[..., 0] ** 2))
    support = with_advantages(support, BaselineConfig(ridge=1e-8))

    def after(inner: InnerConfig) -> float:
        moved = inner_step(policy, stack, support, inner, 0)
        variance = (2 * moved["log_std"]).exp()
        return float((-(moved["bias_0"] ** 2) - variance).mean())

    before = -(0.3**2)
    assert after(InnerConfig(step_size=0.5)) < before - 0.05
    assert after(InnerConfig(step_size=0.5, max_kl=0.02)) > before - 0.005


# --- learned advantage ---


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_learned_advantages_equal_a_loop_over_time(discrete: bool) -> None:
    policy, stack, episodes = start(InnerConfig(advantage="learned"), discrete)
    actual = learned_advantages(policy, stack, episodes)
    assert (actual[episodes.mask == 0] == 0).all()
    psi = {
        name.removeprefix("advantage/"): value.numpy()
        for name, value in stack.items()
        if name.startswith("advantage/")
    }
    for i, e in np.ndindex(*episodes.mask.shape[:2]):
        length = int(episodes.mask[i, e].sum())
        for t in range(length):
            action = episodes.actions[i, e, t].numpy()
            inputs = np.concatenate(
                [
                    episodes.observations[i, e, t].numpy(),
                    episodes.observations[i, e, min(t + 1, length - 1)].numpy(),
                    np.eye(3)[int(action)] if discrete else action,
                    [float(episodes.rewards[i, e, t])],
                    [t / 100],
                ]
            )
            hidden = np.tanh(inputs @ psi["weight_0"][i] + psi["bias_0"][i])
            expected = float((hidden @ psi["weight_1"][i] + psi["bias_1"][i])[0])
            assert float(actual[i, e, t]) == pytest.approx(expected, rel=1e-10)


def test_several_choices_are_encoded_one_after_the_other() -> None:
    head = ActionHead.of(spaces.MultiDiscrete([2, 3]))
    encoded = head.encoded(torch.tensor([[[1, 2], [0, 0]]]))
    assert encoded.tolist() == [[[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]]


def test_the_learned_advantage_starts_at_zero_and_depends_on_the_seed() -> None:
    policy, inner = make_policy(), InnerConfig(advantage="learned")
    first, again, other = (initial_theta(policy, inner, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["advantage/weight_0"], other["advantage/weight_0"])
    _, _, episodes = start(InnerConfig())
    learned = learned_advantages(policy, make_stack(first, NUM_TASKS), episodes)
    assert not learned.any()


@pytest.mark.parametrize("advantage", ["learned", "sum"])
def test_a_step_with_a_learned_advantage_is_one_with_these_values_and_an_offset_at_first(
    advantage: Any,
) -> None:
    inner = InnerConfig(step_size=0.3, advantage=advantage)
    policy, stack, support = start(inner)
    values = learned_advantages(policy, stack, support)
    if advantage == "sum":
        values = values + support.inner_advantages
    replaced = dataclasses.replace(support, inner_advantages=values)
    plain = inner_step(policy, stack, replaced, dataclasses.replace(inner, advantage="gae"), 0)
    first, second = (inner_step(policy, stack, support, inner, step) for step in (0, 1))
    for name, value in plain.items():
        offset = stack.get(f"offset/{name}", torch.zeros(()))
        torch.testing.assert_close(first[name], value + offset, **CLOSE)
        torch.testing.assert_close(second[name], value, **CLOSE)


def test_the_fisher_product_keeps_whole_episodes_for_a_learned_advantage() -> None:
    """It thins the query only, as if every other step of it was masked."""
    inner = InnerConfig(step_size=0.3, advantage="learned")
    policy, stack, support = start(inner)
    theta = of_task(stack, 0)
    adapted = inner_step(policy, stack, support, inner, 0)
    query = make_episodes(policy, adapted, seed=1)
    objective = MetaObjective(
        policy, MetaBatch((support,), query, (stack, adapted)), inner, NUM_TASKS
    )
    _, num_episodes, horizon = query.mask.shape
    kept = (torch.arange(horizon) - torch.arange(num_episodes)[:, None]) % 2 == 0
    thinned = objective.batch._replace(query=dataclasses.replace(query, mask=query.mask * kept))
    vector = torch.randn(
        len(to_vector(theta)), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    product = fisher_vector_product(objective, theta, state_stride=2)(vector)
    expected = fisher_vector_product(dataclasses.replace(objective, batch=thinned), theta)(vector)
    torch.testing.assert_close(product, expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(product, fisher_vector_product(objective, theta)(vector), rtol=1e-2)


@pytest.mark.slow
def test_a_learned_advantage_learns_from_the_level_of_the_reward() -> None:
    """Before adaptation every action earns the goal g = ±1; after it, the reward is -(a - g)².

    All advantages over a baseline are zero before adaptation, so only a learned advantage can
    adapt. Without adaptation the best return is -1 - sigma² with sigma = 0.3.
    """
    num_tasks, num_episodes = 20, 10
    goals = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(num_tasks // 2)[:, None, None]

    def final_return(advantage: Any) -> float:
        inner = InnerConfig(step_size=0.1, advantage=advantage)
        policy, stack = normal_policy(np.log(0.3), num_tasks)
        theta = initial_theta(policy, inner)
        theta |= of_task(stack, 0)
        state = initial_state(theta)
        returns = []
        for iteration in range(150):
            stack = make_stack(theta, num_tasks)
            support = one_step_episodes(policy, stack, num_episodes, seed=2 * iteration)
            support = dataclasses.replace(support, rewards=goals.expand_as(support.rewards))
            support = with_advantages(support, BaselineConfig())
            adapted = inner_step(policy, stack, support, inner, 0)
            query = one_step_episodes(policy, adapted, num_episodes, seed=2 * iteration + 1)
            rewards = -((query.actions[..., 0] - goals) ** 2)
            advantages = rewards - rewards.mean((1, 2), keepdim=True)
            query = dataclasses.replace(query, rewards=rewards, advantages=advantages)
            returns.append(float(rewards.mean()))
            batch = MetaBatch((support,), query, (stack, adapted))
            objective = MetaObjective(policy, batch, inner, num_tasks)
            theta, state, _ = adam_step(theta, state, objective, AdamConfig(step_size=0.02))
            theta = {**theta, "log_std": torch.full_like(theta["log_std"], np.log(0.3))}
        return float(np.mean(returns[-10:]))

    assert final_return("gae") < -0.9
    assert final_return("learned") > -0.5


# --- shared scale of advantages ---


@pytest.mark.parametrize("advantage", ["gae", "sum"])
def test_a_standard_deviation_divides_the_advantages_of_a_step(advantage: Any) -> None:
    inner = InnerConfig(step_size=0.3, shared_advantage_scale=True, advantage=advantage)
    policy, stack, support = start(inner)
    std = 4.0
    values = support.inner_advantages
    if advantage == "sum":
        values = values + learned_advantages(policy, stack, support)
    divided = dataclasses.replace(support, inner_advantages=values / std)
    expected = inner_step(policy, stack, divided, InnerConfig(step_size=0.3), 0)
    for name in expected:
        expected[name] = expected[name] + stack.get(f"offset/{name}", torch.zeros(()))
    # In an evaluation.
    learner = MAML(
        policy=policy,
        inner=inner,
        outer=TRPOConfig(),
        baseline=BaselineConfig(),
        normalizes=False,
        num_adaptation_steps=1,
        num_training_stages=2,
        max_failed_share=0.5,
    )
    state = learner.initial_state()
    adaptation = {**state.tensors["adaptation"], "advantage_std": torch.full((1,), std)}
    state = state._replace(tensors={**state.tensors, "adaptation": adaptation})
    # In training.
    batch = MetaBatch((support,), support, (stack, stack))
    objective = MetaObjective(policy, batch, inner, NUM_TASKS, advantage_std=std)
    for moved in (
        learner.update(state, stack, support, 0),
        objective.inner_step(stack, support, 0)[0],
    ):
        for name, value in expected.items():
            torch.testing.assert_close(moved[name], value, **CLOSE)


def objectives_of(monkeypatch: pytest.MonkeyPatch) -> list[MetaObjective]:
    """The meta-objectives of all iterations from now on."""
    objectives: list[MetaObjective] = []

    def recorded(*args: Any, **kwargs: Any) -> MetaObjective:
        objectives.append(MetaObjective(*args, **kwargs))
        return objectives[-1]

    monkeypatch.setattr(maml_learner, "MetaObjective", recorded)
    return objectives


@pytest.mark.slow
def test_the_standard_deviation_is_that_of_the_iteration_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objectives = objectives_of(monkeypatch)
    inner = {"num_steps": 2, "shared_advantage_scale": True}
    run = maml_rl.train(
        tiny(tmp_path / "run", num_iterations=3, inner=inner, baseline={"gae_lambda": 0.5})
    )
    expected = [1.0]
    for objective in objectives:
        values = []
        for support in objective.batch.supports:
            for task, mask in zip(support.inner_advantages, support.mask, strict=True):
                values.append(task[mask > 0].double().numpy())
                assert values[-1].mean() == pytest.approx(0, abs=1e-5)
        expected.append(np.concatenate(values).std())
        assert not np.allclose([value.std() for value in values], 1, rtol=1e-3)
    assert [o.advantage_std for o in objectives] == pytest.approx(expected[:-1], rel=1e-5)
    saved = last(run).tensors["adaptation"]["advantage_std"]
    assert saved.tolist() == pytest.approx(expected[-1:], rel=1e-5)


@pytest.mark.slow
def test_the_standard_deviation_remains_while_no_reward_is_found(tmp_path: Path) -> None:
    config = tiny(
        tmp_path / "run",
        env="PointNavigationSparse",
        num_iterations=1,
        horizon=2,
        inner={"shared_advantage_scale": True},
    )
    assert last(maml_rl.train(config)).tensors["adaptation"]["advantage_std"].tolist() == [1.0]


# --- schedules of the loss and of the outer step ---


@pytest.mark.parametrize("num_steps", [2, 3])
def test_the_loss_after_every_step_is_a_weighted_mean(num_steps: int) -> None:
    inner = InnerConfig(num_steps=num_steps, step_size=0.3)
    policy = make_policy()
    theta = make_theta(policy)
    batch = make_meta_batch(policy, theta, inner)
    objective = MetaObjective(policy, batch, inner, 2, early_weight=0.7)
    moved = from_vector(to_vector(theta) + 0.02, theta)
    stages = [*batch.supports[1:], batch.query]
    weights = [0.7] * (num_steps - 1) + [1.0]
    for quantity, plain in ((ratio_surrogate, plain_task_surrogate), (query_kl, plain_task_kl)):
        means = [
            np.mean(
                [
                    plain(plain_adapt(moved, batch.supports[:k], i, inner), stage, i).item()
                    for i in range(NUM_TASKS)
                ]
            )
            for k, stage in enumerate(stages, start=1)
        ]
        expected = np.average(means, weights=weights)
        assert objective.mean(moved, quantity)[0] == pytest.approx(expected, rel=1e-9)
        late = dataclasses.replace(objective, early_weight=0.0)
        assert late.mean(moved, quantity)[0] == pytest.approx(means[-1], rel=1e-9)
    # A range that clips nothing.
    assert objective.mean(moved, clipped_surrogate(1e6)) == pytest.approx(
        objective.mean(moved, ratio_surrogate), rel=1e-12
    )


@pytest.mark.slow
def test_iterations_follow_the_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objectives = objectives_of(monkeypatch)
    run = maml_rl.train(
        tiny(
            tmp_path / "run",
            num_iterations=3,
            inner={"num_steps": 2, "early_loss_weight": 0.8, "early_loss_iterations": 2},
            outer={"name": "adam", "decay_factor": 1e-6, "decay_iterations": 2},
            logging={"checkpoint_every": 1},
        )
    )
    assert [o.early_weight for o in objectives] == pytest.approx([0.8, 0.4, 0.0])
    thetas = [
        to_vector(maml_rl.load(run, iteration=i).state.tensors["theta"]).double() for i in (1, 2, 3)
    ]
    # Adam moves a parameter by about its step size: 1e-3, times the root of 1e-6, then times 1e-6.
    moves = [float((new - old).abs().max()) for old, new in itertools.pairwise(thetas)]
    assert moves[0] == pytest.approx(1e-6, rel=0.5)
    assert moves[1] < 1e-7


# --- a step size for each step ---


def test_each_step_has_its_own_step_size() -> None:
    inner = InnerConfig(
        num_steps=2, step_size=0.3, learned_step_size="scalar", learned_per_step=True
    )
    policy = make_policy()
    theta = initial_theta(policy, inner)
    assert {name for name in theta if name.startswith("step_size")} == {
        "step_size/0",
        "step_size/1",
    }
    theta["step_size/1"] = theta["step_size/1"] / 6
    network = make_theta(policy)
    batch = make_meta_batch(policy, network, InnerConfig(num_steps=2, step_size=0.3))
    stack = make_stack(theta, NUM_TASKS)
    for step, support in enumerate(batch.supports):
        stack = inner_step(policy, stack, support, inner, step)
    for i in range(NUM_TASKS):
        expected = network
        for support, size in zip(batch.supports, (0.3, 0.05), strict=True):
            expected = plain_adapt(expected, [support], i, InnerConfig(step_size=size))
        for name, value in expected.items():
            torch.testing.assert_close(stack[name][i], value.detach(), **CLOSE)


def test_steps_beyond_training_have_the_last_step_size() -> None:
    inner = InnerConfig(
        num_steps=2, step_size=0.3, learned_step_size="per_layer", learned_per_step=True
    )
    policy = make_policy()
    theta = initial_theta(policy, inner)
    for i, name in enumerate(key for key in theta if key.startswith("step_size/1/")):
        theta[name] = theta[name] + i
    stack = make_stack(theta, 1)
    sizes = [step_sizes(policy, inner, stack, step) for step in (1, 2, 7)]
    first = step_sizes(policy, inner, stack, 0)
    for name in first:
        assert float(first[name]) == 0.3
        assert sizes[0][name] is not None
        assert all(torch.equal(size[name], theta[f"step_size/1/{name}"][None]) for size in sizes)
