"""Meta-gradient, meta-objective and Fisher-vector product against independent computations."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.synthetic import (
    NUM_TASKS,
    OBSERVATION_SIZE,
    finite_difference_gradient,
    from_vector,
    make_episodes,
    make_meta_batch,
    make_policy,
    make_theta,
    plain_adapt,
    plain_inner_loss,
    plain_meta_objective,
    plain_task_kl,
    plain_task_surrogate,
    policy_gradient_loss,
    to_vector,
    with_garbage,
)

from maml_rl.learners.maml.adapt import adapt
from maml_rl.learners.maml.objective import MetaBatch, MetaObjective
from maml_rl.learners.maml.outer import trpo
from maml_rl.learners.maml.outer.trpo import fisher_vector_product
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.distributions import Gaussian
from maml_rl.policies.network_policy import NetworkPolicy
from maml_rl.policies.parameters import make_stack
from maml_rl.policies.policy import Policy
from maml_rl.settings.learners import InnerConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.torch_runtime import torch_threads

CLOSE = {"rtol": 1e-10, "atol": 1e-12}

both_policies = pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])
both_surrogates = pytest.mark.parametrize("surrogate", ["log_prob", "likelihood_ratio"])
both_orders = pytest.mark.parametrize(
    "first_order", [False, True], ids=["second_order", "first_order"]
)


def make_objective(
    discrete: bool = False,
    *,
    num_steps: int = 1,
    first_order: bool = False,
    surrogate: str = "log_prob",
    block_size: int = 2,
    dtype: torch.dtype = torch.float64,
) -> tuple[MetaObjective, dict[str, torch.Tensor]]:
    policy = make_policy(discrete, dtype=dtype)
    theta = make_theta(policy)
    inner = InnerConfig(
        num_steps=num_steps, step_size=0.3, first_order=first_order, surrogate=surrogate
    )
    return MetaObjective(policy, make_meta_batch(policy, theta, inner), inner, block_size), theta


def every_other_state(episodes):
    """Episode j keeps the steps t with t ≡ j modulo 2."""
    _, num_episodes, horizon = episodes.mask.shape
    kept = (torch.arange(horizon) - torch.arange(num_episodes)[:, None]) % 2 == 0
    return dataclasses.replace(episodes, mask=episodes.mask * kept)


def moved(theta, size: float = 0.05, seed: int = 5):
    """Parameters at which ratios are not 1 and the KL is not 0."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + size * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in theta.items()
    }


def map_batch(batch: MetaBatch, function) -> MetaBatch:
    return batch._replace(
        supports=tuple(map(function, batch.supports)), query=function(batch.query)
    )


class TestInnerLoss:
    @both_policies
    @both_surrogates
    def test_equals_the_mean_over_real_steps_of_each_task(self, discrete, surrogate):
        policy = make_policy(discrete)
        theta = make_theta(policy)
        episodes = make_episodes(policy, make_stack(moved(theta), NUM_TASKS), seed=1)
        losses = policy_gradient_loss(policy, surrogate)(make_stack(theta, NUM_TASKS), episodes)
        expected = [plain_inner_loss(theta, episodes, i, surrogate) for i in range(NUM_TASKS)]
        torch.testing.assert_close(losses, torch.stack(expected), **CLOSE)

    @both_policies
    def test_surrogates_share_their_gradient_but_not_their_hessian_at_the_sampling_parameters(
        self, discrete
    ):
        policy = make_policy(discrete)
        theta = make_theta(policy)
        episodes = make_episodes(policy, make_stack(theta, 1), seed=2)

        def loss_of(surrogate):
            loss = policy_gradient_loss(policy, surrogate)
            return lambda vector: loss(
                make_stack_with_graph(from_vector(vector, theta)), episodes
            ).sum()

        def make_stack_with_graph(values):
            return {name: value[None] for name, value in values.items()}

        gradients, hessians = [], []
        for surrogate in ("log_prob", "likelihood_ratio"):
            gradients.append(
                torch.autograd.functional.jacobian(loss_of(surrogate), to_vector(theta))
            )
            hessians.append(torch.autograd.functional.hessian(loss_of(surrogate), to_vector(theta)))
        torch.testing.assert_close(*gradients, **CLOSE)
        assert (hessians[0] - hessians[1]).abs().max() > 1e-2


class TestAdapt:
    @pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
    @both_orders
    def test_quadratic_closed_form(self, num_steps, first_order):
        """L(θ) = ½‖θ − c‖² has θ' − c = (1 − α)^K (θ − c), and dθ'/dθ = (1 − α)^K or 1."""
        alpha = 0.3
        theta = {
            "x": torch.tensor([[1.0, -2.0], [0.5, 4.0]], dtype=torch.float64, requires_grad=True)
        }
        centre = torch.tensor([[3.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)

        def loss(stack, target):
            return 0.5 * (stack["x"] - target).square().sum(-1)

        theta_prime = adapt(
            theta, [centre] * num_steps, loss, step_size=alpha, first_order=first_order
        )
        shrunk = (1 - alpha) ** num_steps
        torch.testing.assert_close(theta_prime["x"] - centre, shrunk * (theta["x"] - centre))
        # Adaptation's end is shrunk once by its value, and in the full gradient once more by its
        # Jacobian.
        (gradient,) = torch.autograd.grad(loss(theta_prime, centre).sum(), theta["x"])
        power = num_steps if first_order else 2 * num_steps
        torch.testing.assert_close(gradient, (1 - alpha) ** power * (theta["x"] - centre).detach())

    @both_policies
    def test_equals_plain_gradient_steps(self, discrete):
        objective, theta = make_objective(discrete, num_steps=2)
        loss = policy_gradient_loss(objective.policy, "log_prob")
        supports = objective.batch.supports
        adapted = adapt(
            make_stack(theta, NUM_TASKS), supports, loss, step_size=0.3, first_order=False
        )
        for i in range(NUM_TASKS):
            expected = plain_adapt(theta, supports, i, objective.inner)
            for name in theta:
                torch.testing.assert_close(adapted[name][i], expected[name].detach(), **CLOSE)

    @pytest.mark.parametrize("requires_grad", [False, True])
    @both_orders
    def test_leaves_its_inputs_unchanged(self, requires_grad, first_order):
        objective, theta = make_objective(num_steps=2)
        stack = {
            name: value.requires_grad_(requires_grad)
            for name, value in make_stack(theta, NUM_TASKS).items()
        }
        before = {name: value.detach().clone() for name, value in stack.items()}
        module_before = make_theta(objective.policy)
        supports = objective.batch.supports
        loss = policy_gradient_loss(objective.policy, "log_prob")
        adapted = adapt(stack, supports, loss, step_size=0.3, first_order=first_order)
        for name, value in stack.items():
            assert torch.equal(value, before[name])
            assert value.grad is None
            assert value.requires_grad is requires_grad
            assert not torch.equal(adapted[name], value)
        for name, value in make_theta(objective.policy).items():
            assert torch.equal(value, module_before[name])

    @pytest.mark.parametrize("changed", range(NUM_TASKS))
    def test_a_task_depends_on_its_own_episodes_only(self, changed):
        objective, theta = make_objective(num_steps=1)
        support = objective.batch.supports[0]
        advantages = support.inner_advantages.clone()
        advantages[changed] *= -2
        other = dataclasses.replace(support, inner_advantages=advantages)
        loss = policy_gradient_loss(objective.policy, "log_prob")
        stack = make_stack(theta, NUM_TASKS)
        first = adapt(stack, [support], loss, step_size=0.3, first_order=False)
        second = adapt(stack, [other], loss, step_size=0.3, first_order=False)
        for i in range(NUM_TASKS):
            same = all(torch.equal(first[name][i], second[name][i]) for name in theta)
            assert same is (i != changed)

    @both_orders
    def test_values_give_values(self, first_order):
        objective, theta = make_objective(num_steps=2)
        loss = policy_gradient_loss(objective.policy, "log_prob")
        supports = objective.batch.supports
        stack = make_stack(theta, NUM_TASKS)
        adapted = adapt(stack, supports, loss, step_size=0.3, first_order=first_order)
        for value in adapted.values():
            assert not value.requires_grad
            assert value.grad_fn is None
        graph = {name: value.clone().requires_grad_() for name, value in stack.items()}
        with_graph = adapt(graph, supports, loss, step_size=0.3, first_order=first_order)
        for name, value in with_graph.items():
            assert value.requires_grad
            assert torch.equal(value, adapted[name])

    def test_works_where_gradients_are_switched_off(self):
        objective, theta = make_objective(num_steps=2)
        loss = policy_gradient_loss(objective.policy, "log_prob")
        supports, stack = objective.batch.supports, make_stack(theta, NUM_TASKS)
        expected = adapt(stack, supports, loss, step_size=0.3, first_order=True)
        with torch.no_grad():
            adapted = adapt(stack, supports, loss, step_size=0.3, first_order=True)
        assert all(torch.equal(adapted[name], expected[name]) for name in theta)


class TestValue:
    @both_policies
    @both_surrogates
    @pytest.mark.parametrize("num_steps", [0, 1, 2])
    def test_equals_plain_code(self, discrete, surrogate, num_steps):
        objective, theta = make_objective(discrete, num_steps=num_steps, surrogate=surrogate)
        batch, inner = objective.batch, objective.inner
        theta = moved(theta)
        surrogate_value, kl = objective.value(theta)
        expected_surrogate = plain_meta_objective(theta, batch, inner, plain_task_surrogate).item()
        expected_kl = plain_meta_objective(theta, batch, inner, plain_task_kl).item()
        assert surrogate_value == pytest.approx(expected_surrogate, rel=1e-10)
        assert kl == pytest.approx(expected_kl, rel=1e-10)
        assert kl > 1e-4

    @both_policies
    def test_at_the_sampling_parameters_kl_is_zero_and_the_surrogate_is_the_mean_advantage(
        self, discrete
    ):
        objective, theta = make_objective(discrete, num_steps=2)
        surrogate, kl = objective.value(theta)
        query = objective.batch.query
        means = [query.advantages[i][query.mask[i] > 0].mean() for i in range(NUM_TASKS)]
        assert kl == pytest.approx(0, abs=1e-13)
        assert surrogate == pytest.approx(float(torch.stack(means).mean()), rel=1e-10)

    @both_policies
    @both_surrogates
    def test_masked_steps_do_not_matter(self, discrete, surrogate):
        objective, theta = make_objective(discrete, num_steps=2, surrogate=surrogate)
        assert (objective.batch.query.mask == 0).any()
        assert objective.batch.query.discarded.any()
        other = dataclasses.replace(
            objective, batch=map_batch(objective.batch, lambda e: with_garbage(e, -7.0))
        )
        at = moved(theta)
        assert other.value(at) == pytest.approx(objective.value(at), rel=1e-12)
        for ours, theirs in zip(
            objective.surrogate_and_gradient(at), other.surrogate_and_gradient(at), strict=True
        ):
            torch.testing.assert_close(ours, theirs, **CLOSE)
        vector = torch.linspace(-1, 1, len(to_vector(theta)), dtype=torch.float64)
        products = [fisher_vector_product(o, theta)(vector) for o in (objective, other)]
        torch.testing.assert_close(*products, **CLOSE)


class TestMetaGradient:
    @pytest.mark.slow
    @both_policies
    @both_surrogates
    @pytest.mark.parametrize("num_steps", [0, 1, 2])
    def test_second_order_equals_finite_differences_of_the_surrogate(
        self, discrete, surrogate, num_steps
    ):
        objective, theta = make_objective(discrete, num_steps=num_steps, surrogate=surrogate)
        for at in (theta, moved(theta)):
            value, gradient = objective.surrogate_and_gradient(at)
            expected = finite_difference_gradient(
                lambda vector: objective.value(from_vector(vector, theta))[0], to_vector(at)
            )
            assert value == pytest.approx(objective.value(at)[0], rel=1e-12)
            torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)

    @both_policies
    @both_surrogates
    @pytest.mark.parametrize("num_steps", [1, 2])
    def test_first_order_equals_finite_differences_with_inner_gradients_frozen(
        self, discrete, surrogate, num_steps
    ):
        objective, theta = make_objective(
            discrete, num_steps=num_steps, surrogate=surrogate, first_order=True
        )
        batch, inner = objective.batch, objective.inner
        adapted = [
            to_vector(plain_adapt(theta, batch.supports, i, inner)).detach()
            for i in range(NUM_TASKS)
        ]
        shifts = [adapted[i] - to_vector(theta) for i in range(NUM_TASKS)]

        def frozen(vector):
            terms = [
                plain_task_surrogate(from_vector(vector + shift, theta), batch.query, i)
                for i, shift in enumerate(shifts)
            ]
            return torch.stack(terms).mean().item()

        value, gradient = objective.surrogate_and_gradient(theta)
        assert value == pytest.approx(frozen(to_vector(theta)), rel=1e-12)
        torch.testing.assert_close(
            gradient, finite_difference_gradient(frozen, to_vector(theta)), rtol=1e-6, atol=1e-8
        )
        exact = dataclasses.replace(objective, inner=dataclasses.replace(inner, first_order=False))
        assert (exact.surrogate_and_gradient(theta)[1] - gradient).abs().max() > 1e-3

    def test_theta_that_requires_gradients_is_not_touched(self):
        objective, theta = make_objective()
        leaf = {name: value.clone().requires_grad_() for name, value in theta.items()}
        _, gradient = objective.surrogate_and_gradient(leaf)
        assert not gradient.requires_grad
        assert all(value.grad is None for value in leaf.values())
        torch.testing.assert_close(gradient, objective.surrogate_and_gradient(theta)[1], **CLOSE)


def explicit_matrix(product, size: int) -> torch.Tensor:
    return torch.stack([product(column) for column in torch.eye(size, dtype=torch.float64)], dim=1)


class TestFisherVectorProduct:
    @both_policies
    @both_orders
    @pytest.mark.parametrize("num_steps", [0, 1, 2])
    def test_is_the_hessian_of_the_kl_at_the_sampling_parameters(
        self, discrete, first_order, num_steps
    ):
        objective, theta = make_objective(discrete, num_steps=num_steps, first_order=first_order)

        def kl(vector):
            return plain_meta_objective(
                from_vector(vector, theta), objective.batch, objective.inner, plain_task_kl
            )

        expected = torch.autograd.functional.hessian(kl, to_vector(theta))
        matrix = explicit_matrix(fisher_vector_product(objective, theta), len(expected))
        torch.testing.assert_close(matrix, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(matrix, matrix.T, rtol=1e-10, atol=1e-13)
        assert torch.linalg.eigvalsh(matrix).min() > -1e-12

    @pytest.mark.slow
    def test_with_the_likelihood_ratio_as_inner_surrogate(self):
        objective, theta = make_objective(num_steps=2, surrogate="likelihood_ratio")

        def kl(vector):
            return plain_meta_objective(
                from_vector(vector, theta), objective.batch, objective.inner, plain_task_kl
            )

        expected = torch.autograd.functional.hessian(kl, to_vector(theta))
        matrix = explicit_matrix(fisher_vector_product(objective, theta), len(expected))
        torch.testing.assert_close(matrix, expected, rtol=1e-9, atol=1e-12)

    @pytest.mark.slow
    @both_policies
    @both_orders
    def test_state_stride_uses_only_every_other_state(self, discrete, first_order):
        objective, theta = make_objective(discrete, num_steps=2, first_order=first_order)
        matrix = explicit_matrix(
            fisher_vector_product(objective, theta, state_stride=2), len(to_vector(theta))
        )
        torch.testing.assert_close(
            matrix, self.plain_strided_matrix(objective, theta), rtol=1e-9, atol=1e-12
        )
        full = explicit_matrix(fisher_vector_product(objective, theta), len(to_vector(theta)))
        assert (matrix - full).abs().max() > 1e-3

    def test_state_stride_keeps_all_states_in_the_hessians_of_dice(self):
        """As if the query alone had every other state."""
        objective, theta = make_objective(surrogate="dice")
        query = every_other_state(objective.batch.query)
        thinned = dataclasses.replace(objective, batch=objective.batch._replace(query=query))
        size = len(to_vector(theta))
        torch.testing.assert_close(
            explicit_matrix(fisher_vector_product(objective, theta, state_stride=2), size),
            explicit_matrix(fisher_vector_product(thinned, theta), size),
            rtol=1e-9,
            atol=1e-12,
        )

    @pytest.mark.parametrize("stride", [1, 2, 4])
    def test_default_stride_keeps_about_100_states_of_a_task(self, monkeypatch, stride):
        objective, theta = make_objective(False)
        stages = (*objective.batch.supports, objective.batch.query)
        num_states = min(float(stage.mask.sum()) / NUM_TASKS for stage in stages)
        monkeypatch.setattr(trpo, "STATES_PER_TASK", int(num_states / stride))
        vector = torch.ones(len(to_vector(theta)), dtype=torch.float64)
        chosen = fisher_vector_product(objective, theta, state_stride=None)(vector)
        assert torch.equal(
            chosen, fisher_vector_product(objective, theta, state_stride=stride)(vector)
        )
        monkeypatch.setattr(trpo, "STATES_PER_TASK", 1)
        monkeypatch.setattr(trpo, "MOST_STATE_STRIDE", 2)
        assert trpo.default_state_stride(objective) == 2
        monkeypatch.setattr(trpo, "STATES_PER_TASK", 10**6)
        assert trpo.default_state_stride(objective) == 1

    def test_default_stride_keeps_as_many_where_episodes_before_adaptation_are_short(
        self, monkeypatch
    ):
        objective, _ = make_objective(False)
        first, *others = objective.batch.supports
        is_kept = torch.arange(first.mask.shape[-1]) < 2
        short = dataclasses.replace(first, mask=first.mask * is_kept)
        batch = objective.batch._replace(supports=(short, *others))
        num_states = float(short.mask.sum()) / NUM_TASKS
        monkeypatch.setattr(trpo, "STATES_PER_TASK", int(num_states / 2))
        assert trpo.default_state_stride(dataclasses.replace(objective, batch=batch)) == 2
        assert trpo.default_state_stride(objective) > 2

    @staticmethod
    def plain_strided_matrix(objective, theta):
        """mean_i (Π (I − α Hₖ))ᵀ Fᵢ (Π (I − α Hₖ)), H and F from every other state only."""
        inner, total = objective.inner, 0.0

        for i in range(NUM_TASKS):
            stage = {name: value.clone() for name, value in theta.items()}
            jacobian = torch.eye(len(to_vector(theta)), dtype=torch.float64)
            for support in objective.batch.supports:
                if not inner.first_order:
                    thinned = every_other_state(support)
                    hessian = torch.autograd.functional.hessian(
                        lambda v, support=thinned, i=i: plain_inner_loss(
                            from_vector(v, theta), support, i, inner.surrogate
                        ),
                        to_vector(stage),
                    )
                    jacobian = jacobian - inner.step_size * hessian @ jacobian
                adapted = plain_adapt(stage, [support], i, inner)
                stage = {name: value.detach() for name, value in adapted.items()}
            query = every_other_state(objective.batch.query)
            fisher = torch.autograd.functional.hessian(
                lambda v, query=query, i=i: plain_task_kl(from_vector(v, theta), query, i),
                to_vector(stage),
            )
            total = total + jacobian.T @ fisher @ jacobian
        return total / NUM_TASKS


class StateDependentStd(Policy):
    """Not an MLPPolicy, and its standard deviation depends on the state."""

    head_names = ()

    def __init__(self):
        super().__init__((OBSERVATION_SIZE,), ActionHead(2))
        generator = torch.Generator().manual_seed(3)
        shape = (OBSERVATION_SIZE, 2)
        mean, std = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        self.mean = torch.nn.Parameter(mean)
        self.std = torch.nn.Parameter(0.3 * std)

    def distribution(self, stack, observations):
        return Gaussian(torch.sin(observations @ stack["mean"]), observations @ stack["std"])

    def plain_module(self, theta, normalizer, action_map):
        raise NotImplementedError


def test_any_policy_has_a_meta_gradient_and_a_fisher_product():
    policy = StateDependentStd()
    theta, inner = make_theta(policy), InnerConfig(num_steps=1, step_size=0.1)
    stack = make_stack(theta, NUM_TASKS)
    support = make_episodes(policy, stack, seed=1)
    loss = policy_gradient_loss(policy, "log_prob")
    adapted = adapt(stack, [support], loss, step_size=0.1, first_order=True)
    query = make_episodes(policy, adapted, seed=2)
    objective = MetaObjective(policy, MetaBatch((support,), query, (stack, adapted)), inner, 2)
    at = to_vector(theta)
    _, gradient = objective.surrogate_and_gradient(theta)
    expected = finite_difference_gradient(lambda v: objective.value(from_vector(v, theta))[0], at)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)

    # The KL's gradient vanishes at the sampling parameters, so its second differences are its
    # Hessian.
    vector = torch.linspace(-1, 1, len(at), dtype=torch.float64)
    product = fisher_vector_product(objective, theta)(vector)
    eps = 1e-3
    along = [objective.value(from_vector(at + sign * eps * vector, theta))[1] for sign in (1, -1)]
    assert float(vector @ product) == pytest.approx(sum(along) / eps**2, rel=1e-4)
    matrix = explicit_matrix(fisher_vector_product(objective, theta), len(at))
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-10, atol=1e-13)


def test_threads_may_share_a_network():
    """``functional_call`` exchanges the network's parameters while it runs."""
    network = torch.nn.Sequential(
        torch.nn.Linear(OBSERVATION_SIZE, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
    )
    policy = NetworkPolicy(network.double(), (OBSERVATION_SIZE,), ActionHead(2), 1.0)
    theta, inner = make_theta(policy), InnerConfig(num_steps=1, step_size=0.1)
    stack = make_stack(theta, 12)
    episodes = [make_episodes(policy, stack, seed=seed) for seed in (1, 2)]
    batch = MetaBatch((episodes[0],), episodes[1], (stack, stack))
    objective = MetaObjective(policy, batch, inner, 1)
    with torch_threads(1):
        _, expected = objective.surrogate_and_gradient(theta)
    with torch_threads(4):
        for _ in range(10):
            torch.testing.assert_close(
                objective.surrogate_and_gradient(theta)[1], expected, rtol=0, atol=0
            )


class TestBlocks:
    @both_policies
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_results_do_not_depend_on_the_block_size(self, discrete, dtype):
        # Matrix products of other shapes may add in another order, so equality is up to the dtype's
        # own rounding.
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
        objective, theta = make_objective(discrete, num_steps=2, dtype=dtype)
        vector = torch.linspace(-1, 1, len(to_vector(theta)), dtype=torch.float64)
        results = []
        for block_size in (1, 2, 3, 7):
            same = dataclasses.replace(objective, block_size=block_size)
            surrogate, gradient = same.surrogate_and_gradient(theta)
            product = fisher_vector_product(same, theta)(vector)
            results.append(
                (
                    torch.tensor(same.value(moved(theta)), dtype=torch.float64),
                    torch.tensor(surrogate, dtype=torch.float64),
                    gradient,
                    product,
                )
            )
        for other in results[1:]:
            for ours, theirs in zip(results[0], other, strict=True):
                assert (ours - theirs).abs().max() <= tolerance * ours.abs().max()

    def test_sums_over_tasks_are_added_in_float64(self):
        values = torch.tensor([[1e8, 1.0], [1.0, 2.0], [-1e8, 3.0]], dtype=torch.float32)
        total = Ranks().sum(values)
        assert total.dtype == torch.float64
        assert total.tolist() == [1.0, 6.0]
        assert Ranks().mean(values).tolist() == [1 / 3, 2.0]

    def test_gradient_and_product_are_float64_for_float32_parameters(self):
        objective, theta = make_objective(dtype=torch.float32)
        _, gradient = objective.surrogate_and_gradient(theta)
        assert gradient.dtype == torch.float64
        assert fisher_vector_product(objective, theta)(gradient).dtype == torch.float64


class TestInnerConfig:
    @pytest.mark.parametrize(
        "field", [{"num_steps": -1}, {"step_size": 0.0}, {"step_size": float("nan")}]
    )
    def test_refuses_values_out_of_range(self, field):
        with pytest.raises(ValueError, match=f"inner.{next(iter(field))}"):
            InnerConfig(**field)


def test_a_ratio_that_overflows_at_a_masked_step_has_no_effect():
    objective, theta = make_objective(False, num_steps=1)
    query = objective.batch.query
    masked = (query.mask == 0).nonzero()[0]
    log_probs = query.log_probs.clone()
    log_probs[tuple(masked)] = -2000.0
    batch = objective.batch._replace(query=dataclasses.replace(query, log_probs=log_probs))
    spoiled = dataclasses.replace(objective, batch=batch)
    assert spoiled.surrogate_and_gradient(theta)[0] == objective.surrogate_and_gradient(theta)[0]
    assert torch.equal(
        spoiled.surrogate_and_gradient(theta)[1], objective.surrogate_and_gradient(theta)[1]
    )
