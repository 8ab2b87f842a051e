"""Outer steps at hand-computed points, and each on a problem with a known answer."""

from __future__ import annotations

import dataclasses

import maml_envs  # noqa: F401  registers the families
import numpy as np
import pytest
import torch
from helpers.synthetic import (
    make_episodes,
    make_meta_batch,
    make_policy,
    make_theta,
    plain_adapt,
    to_vector,
)

import maml_rl
from maml_rl.analysis.evaluation import evaluate
from maml_rl.learners.adam import ascend, initial_state
from maml_rl.learners.maml.objective import Adapted, MetaBatch, MetaObjective, ratio_surrogate
from maml_rl.learners.maml.outer import OUTER
from maml_rl.learners.maml.outer.adam import adam_step
from maml_rl.learners.maml.outer.ppo import clipped_surrogate, ppo_step
from maml_rl.learners.maml.outer.promp import (
    adapted_coefficient,
    initial_promp,
    inner_kl,
    promp_step,
)
from maml_rl.learners.maml.outer.reptile import reptile_step
from maml_rl.policies.parameters import make_stack
from maml_rl.settings.learners import AdamConfig, InnerConfig, PPOConfig, ProMPConfig, ReptileConfig


def make_objective(
    num_steps: int = 1, **inner_settings
) -> tuple[MetaObjective, dict[str, torch.Tensor]]:
    policy = make_policy()
    theta = make_theta(policy)
    inner = InnerConfig(num_steps=num_steps, step_size=0.3, **inner_settings)
    return MetaObjective(policy, make_meta_batch(policy, theta, inner), inner, 2), theta


def moved(theta: dict[str, torch.Tensor], size: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: value + size * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in theta.items()
    }


class TestAdam:
    def test_equals_the_papers_algorithm(self):
        """Kingma & Ba 2015, algorithm 1, maximising, over three different gradients."""
        theta = {"x": torch.tensor([1.0, -2.0], dtype=torch.float64)}
        gradients = torch.tensor([[0.5, -1.0], [-0.2, 3.0], [1.5, 0.0]], dtype=torch.float64)
        expected, m, v = theta["x"].clone(), torch.zeros(2).double(), torch.zeros(2).double()
        state = initial_state(theta)
        for t, gradient in enumerate(gradients, start=1):
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            expected = expected + 0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            theta, state = ascend(theta, gradient, state, 0.01)
            torch.testing.assert_close(theta["x"], expected, rtol=1e-12, atol=1e-14)

    def test_climbs_the_meta_gradient(self):
        objective, theta = make_objective()
        before, gradient = objective.surrogate_and_gradient(theta)
        config = AdamConfig(step_size=1e-4)
        new, state, metrics = adam_step(theta, initial_state(theta), objective, config)
        step = to_vector(new) - to_vector(theta)
        torch.testing.assert_close(
            step, 1e-4 * gradient.sign(), rtol=1e-3, atol=1e-9
        )  # Adam's first step
        assert objective.value(new)[0] > before
        assert metrics["outer/gradient_norm"] == pytest.approx(float(gradient.norm()))
        again, _, _ = adam_step(new, state, objective, config)
        assert not torch.equal(to_vector(again) - to_vector(new), step)

    def test_a_gradient_that_is_not_finite_raises(self):
        theta = {"x": torch.zeros(1)}
        with pytest.raises(FloatingPointError, match=r"^the gradient is not finite$"):
            ascend(theta, torch.tensor([float("nan")]), initial_state(theta), 0.1)


def adapted_at(ratio: float, advantage: float) -> Adapted:
    """One task with one query step of this ratio and advantage."""
    policy = make_policy(discrete=True)
    stack = make_stack(make_theta(policy), 1)
    query = make_episodes(policy, stack, seed=0, num_episodes=1, horizon=2, discard=False)
    query = dataclasses.replace(
        query,
        log_probs=query.log_probs - np.log(ratio),
        advantages=torch.full_like(query.advantages, advantage),
        mask=torch.tensor([[[1.0, 0.0]]], dtype=torch.float64),
    )
    return Adapted(policy, MetaBatch((), query, (stack,)), (stack,), [])


class TestPPO:
    @pytest.mark.parametrize(
        ("ratio", "advantage", "expected"),
        [
            (1.0, 2.0, 2.0),
            (1.2, 2.0, 2.4),  # within the range
            (1.5, 2.0, 2.6),  # clipped at 1.3
            (0.5, 2.0, 1.0),  # a fall that hurts is not clipped
            (0.5, -2.0, -1.4),  # clipped at 0.7
            (1.5, -2.0, -3.0),  # a rise that hurts is not clipped
        ],
    )
    def test_clipping_at_a_point(self, ratio, advantage, expected):
        value = clipped_surrogate(0.3)(adapted_at(ratio, advantage))
        assert float(value) == pytest.approx(expected, rel=1e-12)

    def test_gradient_at_theta_is_that_without_clipping(self):
        objective, theta = make_objective()
        plain = objective.surrogate_and_gradient(theta, ratio_surrogate)
        clipped = objective.surrogate_and_gradient(theta, clipped_surrogate(0.3))
        assert plain[0] == pytest.approx(clipped[0], rel=1e-12)
        torch.testing.assert_close(plain[1], clipped[1], rtol=1e-10, atol=1e-12)

    def test_gradients_part_where_ratios_leave_the_range(self):
        objective, theta = make_objective()
        far = moved(theta, 0.3)
        plain = objective.surrogate_and_gradient(far, ratio_surrogate)
        clipped = objective.surrogate_and_gradient(far, clipped_surrogate(0.1))
        assert clipped[0] < plain[0]
        assert (plain[1] - clipped[1]).norm() > 0.1 * plain[1].norm()

    def test_takes_as_many_steps_as_epochs(self):
        objective, theta = make_objective()
        by_hand, state = theta, initial_state(theta)
        for _ in range(3):
            _, gradient = objective.surrogate_and_gradient(by_hand, clipped_surrogate(0.2))
            by_hand, state = ascend(by_hand, gradient, state, 1e-3)
        config = PPOConfig(num_epochs=3, clip_range=0.2)
        new, new_state, metrics = ppo_step(theta, initial_state(theta), objective, config)
        torch.testing.assert_close(to_vector(new), to_vector(by_hand), rtol=0, atol=0)
        assert float(new_state["step"]) == 3
        assert metrics["outer/surrogate_after"] > metrics["outer/surrogate_before"]
        assert metrics["outer/kl"] > 0


class TestProMP:
    def test_without_a_penalty_it_is_ppo(self):
        objective, theta = make_objective()
        settings = {"num_epochs": 2, "clip_range": 0.2, "step_size": 1e-2}
        config = ProMPConfig(kl_coefficient=0.0, **settings)
        ppo, _, _ = ppo_step(theta, initial_state(theta), objective, PPOConfig(**settings))
        promp, _, _ = promp_step(theta, initial_promp(theta, config), objective, config)
        assert torch.equal(to_vector(ppo), to_vector(promp))

    @pytest.mark.parametrize("num_steps", [1, 2])
    def test_inner_kl_is_the_mean_over_inner_steps(self, num_steps):
        objective, theta = make_objective(num_steps)
        far = moved(theta, 0.1)
        expected = []
        for i in range(objective.batch.query.num_tasks):
            for k, support in enumerate(objective.batch.supports):
                at = plain_adapt(far, objective.batch.supports[:k], i, objective.inner)
                real = (support.mask[i] > 0).flatten()
                mean, log_std = (
                    value[i].expand(len(real), -1)[real] for value in support.distribution
                )
                x = support.observations[i].flatten(0, 1)[real]
                new_mean = (
                    torch.tanh(x @ at["weight_0"] + at["bias_0"]) @ at["weight_1"] + at["bias_1"]
                )
                old = torch.distributions.Normal(mean, log_std.exp())
                new = torch.distributions.Normal(new_mean, at["log_std"].exp().expand_as(new_mean))
                expected.append(
                    float(torch.distributions.kl_divergence(old, new).sum(-1).mean().detach())
                )
        assert objective.mean(far, inner_kl)[0] == pytest.approx(np.mean(expected), rel=1e-9)
        assert objective.mean(theta, inner_kl)[0] == pytest.approx(0, abs=1e-12)

    def test_the_penalty_holds_the_policy_back(self):
        objective, theta = make_objective()
        configs = [
            ProMPConfig(kl_coefficient=eta, step_size=0.02, num_epochs=20)
            for eta in (0.0, 1.0, 10.0)
        ]
        kls = [
            promp_step(theta, initial_promp(theta, config), objective, config)[2]["outer/inner_kl"]
            for config in configs
        ]
        assert kls[0] > 1.2 * kls[1] > 1.5 * kls[2]

    @pytest.mark.parametrize(
        ("kl", "factor"),
        [(0.001, 0.5), (0.0066, 0.5), (0.0067, 1), (0.0149, 1), (0.0151, 2), (1.0, 2)],
    )
    def test_coefficient_adapts_by_the_rule(self, kl, factor):
        config = ProMPConfig(target_kl=0.01)
        eta = adapted_coefficient(torch.tensor(0.3, dtype=torch.float64), kl, config)
        assert float(eta) == pytest.approx(0.3 * factor)

    @pytest.mark.parametrize(
        ("kl", "first", "end"), [(1.0, 5e-4, 100), (0.0, 5e-4, 1e-6), (1.0, 1e3, 1e3), (0, 0, 0)]
    )
    def test_coefficient_has_ends(self, kl, first, end):
        config = ProMPConfig(kl_coefficient=first)
        eta = torch.tensor(first, dtype=torch.float64)
        for _ in range(100):
            eta = adapted_coefficient(eta, kl, config)
        assert float(eta) == pytest.approx(end)

    def test_coefficient_is_carried_on(self):
        objective, theta = make_objective()
        config = ProMPConfig(adaptive_kl=True, step_size=1e-6, kl_coefficient=0.4)
        initial = initial_promp(theta, config)
        _, state, metrics = promp_step(theta, initial, objective, config)
        assert metrics["outer/kl_coefficient"] == pytest.approx(0.4)
        assert float(state["kl_coefficient"]) == pytest.approx(0.2)
        _, state, metrics = promp_step(theta, state, objective, config)
        assert metrics["outer/kl_coefficient"] == pytest.approx(0.2)
        still = dataclasses.replace(config, adaptive_kl=False)
        _, state, _ = promp_step(theta, initial, objective, still)
        assert float(state["kl_coefficient"]) == pytest.approx(0.4)


class TestReptile:
    @pytest.mark.parametrize("num_steps", [1, 3])
    def test_moves_a_share_of_the_mean_way(self, num_steps):
        objective, theta = make_objective(num_steps)
        ends = [
            to_vector(plain_adapt(theta, objective.batch.supports, i, objective.inner)).detach()
            for i in range(objective.batch.query.num_tasks)
        ]
        expected = to_vector(theta) + 0.25 * (torch.stack(ends).mean(0) - to_vector(theta))
        new, state, _ = reptile_step(theta, {}, objective, ReptileConfig(step_size=0.25))
        torch.testing.assert_close(to_vector(new), expected, rtol=1e-10, atol=1e-12)
        assert state == {}

    def test_serial_is_one_task_after_the_other(self):
        objective, theta = make_objective(2)
        alone = dataclasses.replace(objective, batch=objective.batch.chosen(slice(1, 2)))
        new, _, _ = reptile_step(theta, {}, alone, ReptileConfig(step_size=1.0))
        end = plain_adapt(theta, alone.batch.supports, 0, alone.inner)
        torch.testing.assert_close(to_vector(new), to_vector(end).detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (AdamConfig, {"step_size": 0.0}),
        (PPOConfig, {"clip_range": -0.1}),
        (PPOConfig, {"num_epochs": 0}),
        (ProMPConfig, {"kl_coefficient": -1.0}),
        (ProMPConfig, {"target_kl": float("nan")}),
        (ProMPConfig, {"step_size": float("inf")}),
        (ReptileConfig, {"step_size": -1.0}),
    ],
)
def test_invalid_settings_are_refused(config, settings):
    [(name, value)] = settings.items()
    with pytest.raises(ValueError, match=f"outer.{name}.*{value}"):
        config(**settings)


# Return before and after one step of a policy that never learned: -13.5. Straight to every goal:
# about -1.5.
LEARNING = {
    "trpo": {"outer": {"name": "trpo", "max_kl": 0.02}},
    "promp": {"outer": {"name": "promp", "step_size": 0.01}},
    "ppo": {"outer": {"name": "ppo", "step_size": 0.01}},
    "adam": {"outer": {"name": "adam", "step_size": 0.04}},
    "reptile": {"outer": {"name": "reptile"}, "inner": {"num_steps": 3, "step_size": 0.5}},
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(OUTER))
def test_every_outer_step_learns(name, tmp_path):
    assert name in LEARNING, f"add settings with which {name} learns"
    config = maml_rl.load_config(
        env="PointNavigation",
        device="cpu",
        num_iterations=25,
        meta_batch_size=10,
        num_episodes=10,
        horizon=30,
        policy={"hidden_sizes": [16]},
        logging={"final_video": False, "final_evaluation": False},
        output=str(tmp_path / "run"),
        **LEARNING[name],
    )
    policy = maml_rl.load(maml_rl.train(config))
    before, after = evaluate(policy, num_tasks=20, num_episodes=10, num_steps=1).mean
    assert after > -8
    assert after > before + 2
