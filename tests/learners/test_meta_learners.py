"""Each variant of MAML against finite differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers.synthetic import (
    finite_difference_gradient,
    from_vector,
    make_episodes,
    make_policy,
    to_vector,
)
from torch import Tensor

from maml_rl.learners.maml import learned_advantage
from maml_rl.learners.maml.adapt import adapt
from maml_rl.learners.maml.inner_step import (
    initial_theta,
    inner_step,
    step_sizes,
    with_context,
)
from maml_rl.learners.maml.objective import (
    MetaBatch,
    MetaObjective,
    Quantity,
    exploration_surrogate,
    query_kl,
    ratio_surrogate,
    with_credit,
)
from maml_rl.learners.maml.outer.ppo import clipped_surrogate
from maml_rl.learners.maml.outer.promp import inner_kl
from maml_rl.learners.maml.outer.trpo import fisher_vector_product
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.policies.parameters import make_stack
from maml_rl.sampling.episodes import Episodes
from maml_rl.settings.learners import InnerConfig
from maml_rl.system.distributed import Ranks

NUM_TASKS = 3
VARIANTS: dict[str, dict[str, Any]] = {
    "MAML": {},
    "scalar": {"learned_step_size": "scalar"},
    "per layer": {"learned_step_size": "per_layer"},
    "Meta-SGD": {"learned_step_size": "per_parameter"},
    "ANIL": {"adapts": "head"},
    "ANIL per layer": {"adapts": "head", "learned_step_size": "per_layer"},
    "CAVIA": {"adapts": "context"},
    "CAVIA Meta-SGD": {"adapts": "context", "learned_step_size": "per_parameter"},
    "DiCE": {"surrogate": "dice"},
    "DiCE Meta-SGD": {"surrogate": "dice", "learned_step_size": "per_parameter"},
    "scalar per step": {"learned_step_size": "scalar", "learned_per_step": True},
    "per layer per step": {"learned_step_size": "per_layer", "learned_per_step": True},
    "bounded": {"max_kl": 1.0},
    "learned advantage": {"advantage": "learned"},
    "sum of advantages": {"advantage": "sum"},
    "sum in CAVIA": {"advantage": "sum", "adapts": "context"},
    "sum with Meta-SGD per step, bounded": {
        "advantage": "sum",
        "learned_step_size": "per_parameter",
        "learned_per_step": True,
        "max_kl": 6.0,
    },
}
MANY_PARAMETERS = [  # finite differences take seconds
    "DiCE Meta-SGD",
    "learned advantage",
    "sum of advantages",
    "sum in CAVIA",
    "sum with Meta-SGD per step, bounded",
]
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_variant_in_time = pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=pytest.mark.thorough) if name in MANY_PARAMETERS else name
        for name in VARIANTS
    ],
)


@pytest.fixture(autouse=True)
def _few_hidden_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finite differences with respect to psi are slow otherwise."""
    monkeypatch.setattr(learned_advantage, "HIDDEN_SIZE", 3)


def make_variant(
    variant: str, *, num_steps: int = 1, discrete: bool = False, **settings: Any
) -> tuple[MetaObjective, dict[str, Tensor]]:
    """A meta-objective whose episodes were sampled through the variant's own adaptation."""
    inner = InnerConfig(num_steps=num_steps, step_size=0.3, **VARIANTS[variant], **settings)
    if discrete and inner.max_kl is not None:
        # Steps of the categorical policy have smaller divergences.
        inner = dataclasses.replace(inner, max_kl=inner.max_kl / 100)
    policy = make_policy(discrete, context_size=2 if inner.adapts == "context" else 0)
    theta = initial_theta(policy, inner)
    generator = torch.Generator().manual_seed(4)
    for name in (key for key in theta if key.startswith(("advantage/", "offset/"))):
        random = torch.randn(theta[name].shape, generator=generator, dtype=torch.float64)
        theta[name] = theta[name] + (0.5 if name.startswith("advantage/") else 0.1) * random
    for i, name in enumerate(key for key in theta if key.startswith("step_size")):
        theta[name] = theta[name] + 0.02 * (i + 1)
    stacks = [with_context(policy, make_stack(theta, NUM_TASKS))]
    episodes: list[Episodes] = []
    for k in range(num_steps + 1):
        episodes.append(make_episodes(policy, stacks[-1], seed=k))
        stacks.append(inner_step(policy, stacks[-1], episodes[-1], inner, k))
    batch = MetaBatch(tuple(episodes[:-1]), episodes[-1], tuple(stacks[:-1]))
    return MetaObjective(policy, with_credit(batch, Ranks()), inner, 2), theta


@pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("variant", [name for name in VARIANTS if "bounded" in name])
def test_the_bound_of_these_variants_is_active_in_some_tasks_only(
    variant: str, discrete: bool
) -> None:
    objective, theta = make_variant(variant, discrete=discrete)
    bounded, free = objective.inner, dataclasses.replace(objective.inner, max_kl=None)
    stack, [support] = make_stack(theta, NUM_TASKS), objective.batch.supports
    ends = [inner_step(objective.policy, stack, support, inner, 0) for inner in (bounded, free)]
    is_same = torch.isclose(ends[0]["weight_0"], ends[1]["weight_0"], rtol=1e-12).all((1, 2))
    assert is_same.any()
    assert not is_same.all()


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("num_steps", [1, 2])
def test_meta_gradient_with_respect_to_everything_that_is_learned(
    variant: str, num_steps: int
) -> None:
    objective, theta = make_variant(variant, num_steps=num_steps)
    at = to_vector(theta) + 0.01
    expected = finite_difference_gradient(
        lambda vector: objective.mean(from_vector(vector, theta), ratio_surrogate)[0], at
    )
    _, gradient = objective.surrogate_and_gradient(from_vector(at, theta))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
    for name, part in from_vector(gradient, theta).items():
        assert part.abs().max() > 1e-6, f"{name} is not learned"


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant", ["learned advantage", "sum of advantages", "bounded", "scalar per step"]
)
def test_meta_gradient_with_discrete_actions(variant: str) -> None:
    objective, theta = make_variant(variant, num_steps=2, discrete=True)
    at = to_vector(theta) + 0.01
    expected = finite_difference_gradient(
        lambda vector: objective.mean(from_vector(vector, theta), ratio_surrogate)[0], at
    )
    _, gradient = objective.surrogate_and_gradient(from_vector(at, theta))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
    for name, part in from_vector(gradient, theta).items():
        assert part.abs().max() > 1e-6, f"{name} is not learned"


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [2, 3])
@pytest.mark.parametrize("term", [ratio_surrogate, clipped_surrogate(0.05), query_kl])
def test_meta_gradient_of_the_loss_after_every_step(num_steps: int, term: Quantity) -> None:
    objective, theta = make_variant("scalar per step", num_steps=num_steps)
    objective = dataclasses.replace(objective, early_weight=0.7)
    at = to_vector(theta) + 0.01
    expected = finite_difference_gradient(
        lambda vector: objective.mean(from_vector(vector, theta), term)[0], at
    )
    _, gradient = objective.surrogate_and_gradient(from_vector(at, theta), term)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
    late = dataclasses.replace(objective, early_weight=0.0)
    assert not torch.allclose(
        late.surrogate_and_gradient(from_vector(at, theta), term)[1], expected, rtol=1e-2
    )


@pytest.mark.slow
@every_variant_in_time
@pytest.mark.parametrize("quantity", [inner_kl, exploration_surrogate])
def test_gradient_of_what_is_taken_at_the_support_states(variant: str, quantity: Quantity) -> None:
    """They share the inner step's own pass over these states."""
    objective, theta = make_variant(variant, num_steps=2)
    at = to_vector(theta) + 0.01
    expected = finite_difference_gradient(
        lambda vector: objective.mean(from_vector(vector, theta), quantity)[0], at
    )
    _, gradient = objective.surrogate_and_gradient(from_vector(at, theta), quantity)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
    assert gradient.norm() > 1e-3


@pytest.mark.parametrize("quantity", [inner_kl, exploration_surrogate])
def test_at_the_support_states_of_the_first_step_the_order_does_not_matter(
    quantity: Quantity,
) -> None:
    (exact, theta), (first_order, _) = (
        make_variant("MAML", first_order=order) for order in (False, True)
    )
    theta = from_vector(to_vector(theta) + 0.01, theta)
    expected = exact.surrogate_and_gradient(theta, quantity)[1]
    gradient = first_order.surrogate_and_gradient(theta, quantity)[1]
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    assert gradient.norm() > 1e-3


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])
@pytest.mark.parametrize(("num_steps", "early_weight"), [(1, 0.0), (2, 0.0), (2, 0.7)])
def test_fisher_product_is_the_curvature_of_the_kl(
    variant: str, discrete: bool, num_steps: int, early_weight: float
) -> None:
    objective, theta = make_variant(variant, num_steps=num_steps, discrete=discrete)
    objective = dataclasses.replace(objective, early_weight=early_weight)
    product, at, eps = fisher_vector_product(objective, theta), to_vector(theta), 1e-4
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        u, v = torch.randn(2, len(at), generator=generator, dtype=at.dtype)

        def curvature(direction: Tensor) -> float:
            kls = [
                objective.mean(from_vector(at + sign * eps * direction, theta), query_kl)[0]
                for sign in (1.0, -1.0)
            ]
            return sum(kls) / eps**2

        along_v, product_v = curvature(v), product(v)
        assert float(v @ product_v) == pytest.approx(along_v, rel=1e-3)
        mixed = (curvature(u + v) - curvature(u - v)) / 4
        assert float(u @ product_v) == pytest.approx(mixed, rel=1e-2, abs=1e-3 * along_v)
        torch.testing.assert_close(u @ product_v, v @ product(u), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "variant",
    ["Meta-SGD", "scalar", "ANIL per layer", "CAVIA Meta-SGD", "scalar per step"],
)
def test_first_order_still_learns_step_sizes(variant: str) -> None:
    """dθ'/dα = −∇L in both orders: finite differences with fixed inner gradients agree."""
    objective, theta = make_variant(variant, first_order=True)
    gradient = from_vector(objective.surrogate_and_gradient(theta)[1], theta)

    def surrogate(vector: Tensor) -> float:
        # Only the step sizes change, so the inner gradients are fixed.
        moved = {**theta, **from_vector(vector, sizes)}
        return objective.mean(moved, ratio_surrogate)[0]

    sizes = {name: value for name, value in theta.items() if name.startswith("step_size")}
    expected = finite_difference_gradient(surrogate, to_vector(sizes))
    of_sizes = to_vector({name: gradient[name] for name in sizes})
    torch.testing.assert_close(of_sizes, expected, rtol=1e-5, atol=1e-9)


def test_anil_leaves_the_body_untouched() -> None:
    objective, theta = make_variant("ANIL", num_steps=2)
    stack = make_stack(theta, NUM_TASKS)
    for support in objective.batch.supports:
        stack, _ = objective.inner_step(stack, support, 0)
    for name, value in stack.items():
        is_head = name in ("weight_1", "bias_1", "log_std")
        assert torch.equal(value, make_stack(theta, NUM_TASKS)[name]) != is_head, name


def test_cavias_context_starts_at_zero_for_every_task_and_alone_adapts() -> None:
    objective, theta = make_variant("CAVIA")
    start = with_context(objective.policy, make_stack(theta, NUM_TASKS))
    assert "context" not in theta
    assert torch.equal(start["context"], torch.zeros(NUM_TASKS, 2, dtype=torch.float64))
    end, _ = objective.inner_step(start, objective.batch.supports[0], 0)
    assert (end["context"].abs().sum(-1) > 0).all()
    assert all(torch.equal(end[name], start[name]) for name in theta)
    assert torch.equal(with_context(objective.policy, end)["context"], end["context"])


def test_context_is_fed_to_the_first_layer_beside_the_observation() -> None:
    policy = make_policy(context_size=2)
    theta = {name: value.detach() for name, value in policy.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    x, c = (torch.randn(5, size, generator=generator, dtype=torch.float64) for size in (3, 2))
    both = (
        torch.cat([x, c], dim=-1) @ torch.cat([theta["weight_0"], theta["context_weight"]])
        + theta["bias_0"]
    )
    expected = torch.tanh(both) @ theta["weight_1"] + theta["bias_1"]
    stack = {**make_stack(theta, 5), "context": c}
    torch.testing.assert_close(policy.distribution(stack, x[:, None]).mean[:, 0], expected)
    without = policy.distribution(make_stack(theta, 5), x[:, None]).mean
    zeros = policy.distribution({**stack, "context": 0 * c}, x[:, None]).mean
    torch.testing.assert_close(without, zeros)


def test_step_sizes_outside_training_have_their_own_schedule() -> None:
    policy: MLPPolicy = make_policy()
    inner = InnerConfig(step_size=0.1, test_step_sizes=(0.3, 0.05))
    stack = make_stack(initial_theta(policy, inner), 1)
    assert [set(step_sizes(policy, inner, stack, k).values()) for k in range(4)] == [
        {0.3},
        {0.05},
        {0.05},
        {0.05},
    ]
    training = dataclasses.replace(inner, test_step_sizes=())
    assert set(step_sizes(policy, training, stack, 3).values()) == {0.1}


def test_gradients_flow_into_step_sizes_where_theta_is_a_value() -> None:
    """L(θ) = ½ θ²: θ′ = (1 − α)² θ after two steps, dθ′/dα = −2 (1 − α) θ."""
    alpha = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    theta = {
        "x": torch.tensor([[2.0, -1.0]], dtype=torch.float64),
        "y": torch.ones(1, 1, dtype=torch.float64),
    }

    def loss(stack: dict[str, Tensor], support: None) -> Tensor:
        return 0.5 * stack["x"].square().sum(-1)

    theta_prime = adapt(theta, [None, None], loss, step_size={"x": alpha}, first_order=False)
    torch.testing.assert_close(theta_prime["x"], 0.49 * theta["x"])
    assert theta_prime["y"] is theta["y"]
    (gradient,) = torch.autograd.grad(theta_prime["x"].sum(), alpha)
    torch.testing.assert_close(gradient, torch.tensor([[-2 * 0.7 * 1.0]], dtype=torch.float64))


def test_exploration_credit_is_emamls_term() -> None:
    """Its gradient at the sampling parameters is mean_t ∇log π(a_t | s_t) times the credit."""
    objective, theta = make_variant("MAML")
    credit = objective.batch.credit
    returns = objective.batch.query.returns.nanmean(1)
    torch.testing.assert_close(credit, (returns - returns.mean()) / returns.std(correction=0))
    [support] = objective.batch.supports
    expected = torch.zeros(len(to_vector(theta)), dtype=torch.float64)
    for i in range(NUM_TASKS):
        real = support.mask[i] > 0
        leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
        stack = {name: value[None] for name, value in leaves.items()}
        dist = objective.policy.distribution(stack, support.observations[i][real][None])
        log_prob = dist.log_prob(support.actions[i][real][None]).mean()
        expected += credit[i] * to_vector(
            dict(zip(leaves, torch.autograd.grad(log_prob, list(leaves.values())), strict=True))
        )
    _, gradient = objective.surrogate_and_gradient(theta, exploration_surrogate)
    torch.testing.assert_close(gradient, expected / NUM_TASKS, rtol=1e-9, atol=1e-12)


def test_equal_returns_have_no_credit() -> None:
    objective, _ = make_variant("MAML")
    batch = objective.batch
    rewards = torch.full_like(batch.query.rewards, -0.01)
    rewards[1] *= 1 + 1e-7  # as by rounding in float32
    mask = torch.ones_like(batch.query.mask)
    query = dataclasses.replace(batch.query, rewards=rewards, mask=mask)
    equal = batch._replace(query=query)
    assert with_credit(equal, Ranks()).credit.tolist() == [0.0] * NUM_TASKS


def test_exploration_credit_is_added_to_surrogate_and_gradient() -> None:
    objective, theta = make_variant("MAML")
    with_credit = dataclasses.replace(
        objective, inner=dataclasses.replace(objective.inner, exploration_credit=0.7)
    )
    parts = [
        objective.surrogate_and_gradient(theta, term)
        for term in (ratio_surrogate, exploration_surrogate)
    ]
    value, gradient = with_credit.surrogate_and_gradient(theta)
    assert value == pytest.approx(parts[0][0] + 0.7 * parts[1][0], rel=1e-12)
    torch.testing.assert_close(gradient, parts[0][1] + 0.7 * parts[1][1], rtol=1e-10, atol=1e-12)
    assert with_credit.value(theta)[0] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"test_step_sizes": (0.1, 0.0)}, "test_step_sizes"),
        ({"exploration_credit": -1.0}, "exploration_credit"),
        (
            {"exploration_credit": 1.0, "num_steps": 0},
            "num_steps must be at least 1 with inner.exp",
        ),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        InnerConfig(**settings)


def test_step_sizes_of_tests_replace_learned_ones() -> None:
    inner = InnerConfig(learned_step_size="per_layer", test_step_sizes=(0.3, 0.1))
    policy = make_policy()
    stack = make_stack(initial_theta(policy, inner), NUM_TASKS)
    for step, size in enumerate([0.3, 0.1, 0.1]):
        assert set(step_sizes(policy, inner, stack, step).values()) == {size}
