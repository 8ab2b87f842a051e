"""Conjugate gradient and the trust-region step, on quadratics and on a real meta-objective."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.synthetic import make_meta_batch, make_policy, make_theta

from maml_rl.learners.maml.objective import MetaObjective
from maml_rl.learners.maml.outer.trpo import conjugate_gradient, fisher_vector_product, trpo_step
from maml_rl.settings.learners import InnerConfig, TRPOConfig


def positive_definite(size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return root @ root.T + 0.5 * torch.eye(size, dtype=torch.float64)


@dataclasses.dataclass
class QuadraticObjective:
    """Surrogate gᵀd − ½ c‖d‖² and kl ½ dᵀFd at theta + d."""

    origin: torch.Tensor
    gradient: torch.Tensor
    fisher: torch.Tensor
    curvature: float = 0.0
    values: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    strides: list[int] = dataclasses.field(default_factory=list)

    def value(self, theta):
        d = torch.cat([theta["a"], theta["b"].flatten()]) - self.origin
        surrogate = float(self.gradient @ d - 0.5 * self.curvature * d @ d)
        self.values.append((surrogate, float(0.5 * d @ self.fisher @ d)))
        return self.values[-1]

    def surrogate_and_gradient(self, theta):
        return 0.0, self.gradient

    def fisher_vector_product(self, theta, state_stride=1):
        self.strides.append(state_stride)
        return lambda vector: self.fisher @ vector


@pytest.fixture(autouse=True)
def _own_fisher_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quadratic objective has its own Fisher matrix."""

    def product(objective, theta, state_stride):
        if hasattr(objective, "fisher_vector_product"):
            return objective.fisher_vector_product(theta, state_stride)
        return fisher_vector_product(objective, theta, state_stride)

    monkeypatch.setattr("maml_rl.learners.maml.outer.trpo.fisher_vector_product", product)


def quadratic(**options) -> tuple[QuadraticObjective, dict[str, torch.Tensor]]:
    theta = {
        "a": torch.tensor([0.5, -1.0], dtype=torch.float64),
        "b": torch.ones(2, 2, dtype=torch.float64),
    }
    origin = torch.cat([theta["a"], theta["b"].flatten()])
    gradient = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.25], dtype=torch.float64)
    return QuadraticObjective(origin, gradient, positive_definite(6), **options), theta


def rejected_metrics(metrics):
    return {name: metrics[f"outer/{name}"] for name in ("accepted", "kl", "step_fraction")}


NOTHING = {"accepted": 0.0, "kl": 0.0, "step_fraction": 0.0}


class TestConjugateGradient:
    def test_solves_a_positive_definite_system(self):
        matrix = positive_definite(12)
        target = torch.linspace(-1, 2, 12, dtype=torch.float64)
        x, residual = conjugate_gradient(lambda v: matrix @ v, target, 40, tolerance=1e-24)
        torch.testing.assert_close(x, torch.linalg.solve(matrix, target), rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(residual, target - matrix @ x, rtol=0, atol=1e-10)

    def test_the_residual_of_few_iterations(self):
        matrix = positive_definite(12)
        target = torch.linspace(-1, 2, 12, dtype=torch.float64)
        x, residual = conjugate_gradient(lambda v: matrix @ v, target, 3)
        assert residual.norm() > 1e-2
        torch.testing.assert_close(residual, target - matrix @ x, rtol=1e-10, atol=1e-12)

    def test_is_exact_after_as_many_iterations_as_distinct_eigenvalues(self):
        matrix = torch.diag(torch.tensor([1.0, 1.0, 3.0, 3.0, 3.0, 7.0], dtype=torch.float64))
        target = torch.arange(1.0, 7.0, dtype=torch.float64)
        x, _ = conjugate_gradient(lambda v: matrix @ v, target, 3)
        torch.testing.assert_close(x, target / matrix.diagonal())
        early, _ = conjugate_gradient(lambda v: matrix @ v, target, 2)
        assert (early - x).norm() > 1e-2

    def test_stops_at_the_tolerance_and_at_a_zero_target(self):
        calls = []

        def product(vector):
            calls.append(1)
            return 2 * vector

        target = torch.ones(4, dtype=torch.float64)
        torch.testing.assert_close(conjugate_gradient(product, target, 10)[0], target / 2)
        assert len(calls) == 1
        assert torch.equal(conjugate_gradient(product, torch.zeros(4), 10)[0], torch.zeros(4))
        assert len(calls) == 1


class TestStepOnAQuadratic:
    def test_is_the_natural_gradient_scaled_to_the_kl_bound(self):
        objective, theta = quadratic()
        config = TRPOConfig(max_kl=0.02, cg_iterations=20, cg_damping=0.0, fisher_state_stride=3)
        new, state, metrics = trpo_step(theta, {}, objective, config)
        natural = torch.linalg.solve(objective.fisher, objective.gradient)
        full = natural * (2 * 0.02 / (objective.gradient @ natural)).sqrt()
        moved = torch.cat([new["a"], new["b"].flatten()]) - objective.origin
        torch.testing.assert_close(
            moved, metrics["outer/step_fraction"] * full, rtol=1e-8, atol=1e-10
        )
        assert metrics["outer/step_fraction"] in (
            1.0,
            0.8,
        )  # 1 reaches the bound, and rounding decides on which side
        assert metrics["outer/accepted"] == 1.0
        assert metrics["outer/kl"] <= 0.02
        assert metrics["outer/kl"] == pytest.approx(
            0.02 * metrics["outer/step_fraction"] ** 2, rel=1e-6
        )
        assert metrics["outer/gradient_norm"] == pytest.approx(float(objective.gradient.norm()))
        assert state == {}
        assert {name: value.shape for name, value in new.items()} == {
            name: v.shape for name, v in theta.items()
        }
        assert objective.strides == [3]

    def test_damping_shortens_and_turns_the_step(self):
        objective, theta = quadratic()
        config = TRPOConfig(max_kl=0.02, cg_iterations=20, cg_damping=2.0)
        new, _, metrics = trpo_step(theta, {}, objective, config)
        damped = objective.fisher + 2.0 * torch.eye(6, dtype=torch.float64)
        natural = torch.linalg.solve(damped, objective.gradient)
        full = natural * (2 * 0.02 / (natural @ damped @ natural)).sqrt()
        moved = torch.cat([new["a"], new["b"].flatten()]) - objective.origin
        torch.testing.assert_close(moved, full, rtol=1e-8, atol=1e-10)
        assert metrics["outer/step_fraction"] == 1.0
        assert metrics["outer/kl"] < 0.02

    def test_line_search_takes_the_first_fraction_that_holds_both_conditions(self):
        objective, theta = quadratic(curvature=60.0)
        config = TRPOConfig(
            max_kl=0.5, cg_iterations=20, line_search_shrink=0.7, line_search_steps=30
        )
        _, _, metrics = trpo_step(theta, {}, objective, config)
        tried = objective.values
        assert len(tried) > 2
        assert all(surrogate <= 0 or kl > 0.5 for surrogate, kl in tried[:-1])
        assert tried[-1] == (metrics["outer/surrogate_after"], metrics["outer/kl"])
        assert tried[-1][0] > 0
        assert metrics["outer/step_fraction"] == pytest.approx(0.7 ** (len(tried) - 1))
        assert metrics["outer/accepted"] == 1.0

    def test_kl_above_the_bound_is_refused_although_the_surrogate_rises(self):
        objective, theta = quadratic()
        truth = objective.value

        def steeper(parameters):
            surrogate, kl = truth(parameters)
            return surrogate, 3 * kl

        objective.value = steeper
        _, _, metrics = trpo_step(theta, {}, objective, TRPOConfig(max_kl=0.02, cg_iterations=20))
        # 3 β² ≤ 1 holds first for β = 0.8³.
        assert metrics["outer/step_fraction"] == pytest.approx(0.8**3)
        assert metrics["outer/kl"] <= 0.02

    @pytest.mark.parametrize(
        "answer", [(-1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (float("nan"), 0.0), (1.0, float("nan"))]
    )
    def test_a_rejected_line_search_returns_theta_unchanged(self, answer):
        objective, theta = quadratic()
        tried = []

        def nothing_improves(parameters):
            tried.append(parameters)
            return answer

        objective.value = nothing_improves
        before = {name: value.clone() for name, value in theta.items()}
        new, state, metrics = trpo_step(theta, {}, objective, TRPOConfig(line_search_steps=4))
        assert len(tried) == 4
        assert all(torch.equal(new[name], before[name]) for name in before)
        assert all(torch.equal(theta[name], before[name]) for name in before)
        assert rejected_metrics(metrics) == NOTHING
        assert metrics["outer/surrogate_after"] == metrics["outer/surrogate_before"] == 0.0
        assert state == {}

    def test_zero_gradient(self):
        objective, theta = quadratic()
        objective.gradient = torch.zeros(6, dtype=torch.float64)
        new, _, metrics = trpo_step(theta, {}, objective, TRPOConfig())
        assert all(torch.equal(new[name], theta[name]) for name in theta)
        assert rejected_metrics(metrics) == NOTHING
        assert metrics["outer/gradient_norm"] == 0.0

    def test_negative_curvature_is_rejected(self):
        objective, theta = quadratic()
        objective.fisher = -objective.fisher
        new, _, metrics = trpo_step(theta, {}, objective, TRPOConfig())
        assert all(torch.equal(new[name], theta[name]) for name in theta)
        assert rejected_metrics(metrics) == NOTHING

    def test_float32_parameters_stay_float32(self):
        objective, theta = quadratic()
        theta = {name: value.float() for name, value in theta.items()}
        objective.origin = objective.origin.float()
        objective.gradient, fisher = objective.gradient.float(), objective.fisher.float()
        objective.fisher = fisher
        objective.surrogate_and_gradient = lambda _: (0.0, objective.gradient.double())
        objective.fisher_vector_product = lambda *_: lambda vector: fisher.double() @ vector
        new, _, metrics = trpo_step(theta, {}, objective, TRPOConfig())
        assert metrics["outer/accepted"] == 1.0
        assert {value.dtype for value in new.values()} == {torch.float32}


class TestStepOnAMetaObjective:
    @pytest.mark.slow
    @pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])
    @pytest.mark.parametrize("first_order", [False, True], ids=["second_order", "first_order"])
    @pytest.mark.parametrize("num_steps", [0, 1, 2])
    def test_raises_the_surrogate_within_the_kl_bound(self, discrete, first_order, num_steps):
        policy = make_policy(discrete)
        theta = make_theta(policy)
        inner = InnerConfig(num_steps=num_steps, step_size=0.1, first_order=first_order)
        objective = MetaObjective(policy, make_meta_batch(policy, theta, inner), inner, 2)
        config = TRPOConfig(max_kl=0.01, cg_iterations=30, fisher_state_stride=1)
        before = {name: value.clone() for name, value in theta.items()}
        new, _, metrics = trpo_step(theta, {}, objective, config)
        assert metrics["outer/accepted"] == 1.0
        surrogate, kl = objective.value(new)
        assert surrogate == metrics["outer/surrogate_after"] > metrics["outer/surrogate_before"]
        assert metrics["outer/surrogate_before"] == pytest.approx(
            objective.value(theta)[0], rel=1e-12
        )
        assert kl == metrics["outer/kl"] <= 0.01
        assert kl > 0.2 * 0.01
        assert all(torch.equal(theta[name], before[name]) for name in before)

    @pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])
    @pytest.mark.parametrize("num_steps", [0, 1, 2])
    def test_a_small_step_gains_what_gradient_and_fisher_matrix_predict(self, discrete, num_steps):
        policy = make_policy(discrete)
        theta = make_theta(policy)
        inner = InnerConfig(num_steps=num_steps, step_size=0.1)
        objective = MetaObjective(policy, make_meta_batch(policy, theta, inner), inner, 2)
        config = TRPOConfig(max_kl=1e-7, cg_iterations=30, fisher_state_stride=1, cg_damping=1e-3)
        new, _, metrics = trpo_step(theta, {}, objective, config)
        _, gradient = objective.surrogate_and_gradient(theta)
        step = torch.cat([(new[name] - theta[name]).flatten() for name in theta])
        rise = metrics["outer/surrogate_after"] - metrics["outer/surrogate_before"]
        assert rise == pytest.approx(float(gradient @ step), rel=0.05)
        fisher = fisher_vector_product(objective, theta)
        assert metrics["outer/kl"] == pytest.approx(float(0.5 * step @ fisher(step)), rel=0.05)

    def test_a_gradient_that_is_not_finite_raises(self):
        policy = make_policy()
        theta = make_theta(policy)
        inner = InnerConfig(num_steps=1, step_size=0.1)
        objective = MetaObjective(policy, make_meta_batch(policy, theta, inner), inner, 2)
        objective.batch.query.advantages[1] = float("nan")
        with pytest.raises(FloatingPointError, match="meta-gradient"):
            trpo_step(theta, {}, objective, TRPOConfig())


class TestConfig:
    @pytest.mark.parametrize(
        "setting",
        [
            {"max_kl": 0.0},
            {"max_kl": float("nan")},
            {"line_search_shrink": 1.0},
            {"line_search_shrink": 0.0},
            {"cg_iterations": 0},
            {"line_search_steps": 0},
            {"fisher_state_stride": 0},
            {"cg_damping": -1.0},
        ],
    )
    def test_refuses_values_out_of_range(self, setting):
        with pytest.raises(ValueError, match=f"outer.{next(iter(setting))}"):
            TRPOConfig(**setting)


def test_conjugate_gradient_solves_for_a_tiny_target_too() -> None:
    matrix = torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64))
    target = 1e-8 * torch.ones(5, dtype=torch.float64)
    solution, _ = conjugate_gradient(lambda vector: matrix @ vector, target, 10)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target), rtol=1e-4, atol=0)
    assert (
        conjugate_gradient(lambda vector: matrix @ vector, 0 * target, 10)[0].tolist() == [0.0] * 5
    )
