"""Distributions against torch.distributions, and stacked policies against one policy at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.synthetic import OBSERVATION_SIZE, make_policy
from torch import distributions as td

from maml_rl.errors import UserError
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.distributions import Categorical, Gaussian, MultiCategorical
from maml_rl.policies.mlp import MLPPolicy
from maml_rl.policies.mlp import make_policy as make_policy_of
from maml_rl.policies.parameters import flatten, make_stack, parameters, unflatten
from maml_rl.sampling.actors import PolicyActor
from maml_rl.settings.policy import PolicyConfig

T, N, A = 3, 7, 2
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(seed: int, shared: bool) -> Gaussian:
    return Gaussian(
        randn(T, N, A, seed=seed), 0.4 * randn(T, 1 if shared else N, A, seed=seed + 1) - 0.3
    )


def torch_gaussian(dist: Gaussian) -> td.Distribution:
    return td.Independent(td.Normal(dist.mean, dist.log_std.exp().expand_as(dist.mean)), 1)


def random_stack(policy: torch.nn.Module, num_tasks: int = T) -> dict[str, torch.Tensor]:
    stack = make_stack(parameters(policy), num_tasks)
    return {
        name: value + 0.5 * randn(*value.shape, seed=i).to(value)
        for i, (name, value) in enumerate(stack.items())
    }


def fisher_from_hessian_of_kl(dist: Gaussian | Categorical, weights: torch.Tensor) -> torch.Tensor:
    """Hessian of Σ weights · KL(dist ‖ q) with respect to q's parameters, at q = dist."""
    shapes = [value.shape for value in dist]
    sizes = [value.numel() for value in dist]

    def total(vector):
        parts = [
            part.reshape(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)
        ]
        if isinstance(dist, Gaussian):
            kl = td.kl_divergence(torch_gaussian(dist), torch_gaussian(Gaussian(*parts)))
        else:
            kl = td.kl_divergence(
                td.Categorical(logits=dist.logits), td.Categorical(logits=parts[0])
            )
        return (weights * kl).sum()

    return torch.autograd.functional.hessian(total, torch.cat([value.flatten() for value in dist]))


def check_fisher_product(dist: Gaussian | Categorical) -> None:
    weights = randn(T, N, seed=9).abs()
    tangents = [randn(*value.shape, seed=20 + i) for i, value in enumerate(dist)]
    product = dist.fisher_product(tangents, weights)
    assert [value.shape for value in product] == [value.shape for value in dist]
    expected = fisher_from_hessian_of_kl(dist, weights) @ torch.cat(
        [value.flatten() for value in tangents]
    )
    torch.testing.assert_close(torch.cat([value.flatten() for value in product]), expected, **CLOSE)


class TestGaussian:
    @pytest.mark.parametrize("shared", [True, False])
    def test_log_prob_sums_over_action_dimensions(self, shared):
        dist, actions = gaussian(0, shared), randn(T, N, A, seed=5)
        log_prob = dist.log_prob(actions)
        assert log_prob.shape == (T, N)
        torch.testing.assert_close(log_prob, torch_gaussian(dist).log_prob(actions), **CLOSE)

    @pytest.mark.parametrize("shared", [True, False])
    def test_kl(self, shared):
        dist, other = gaussian(0, shared), gaussian(10, shared)
        expected = td.kl_divergence(torch_gaussian(dist), torch_gaussian(other))
        torch.testing.assert_close(dist.kl(other), expected, **CLOSE)
        torch.testing.assert_close(dist.kl(dist), torch.zeros(T, N, dtype=torch.float64), **CLOSE)

    @pytest.mark.parametrize("shared", [True, False])
    def test_fisher_product(self, shared):
        check_fisher_product(gaussian(0, shared))

    def test_fisher_product_at_one_state(self):
        dist = Gaussian(randn(T, 1, A), randn(T, 1, A, seed=1))
        product = dist.fisher_product(
            (randn(T, 1, A, seed=2), randn(T, 1, A, seed=3)), torch.full((T, 1), 0.5)
        )
        torch.testing.assert_close(
            product[0], 0.5 * randn(T, 1, A, seed=2) * torch.exp(-2 * dist.log_std)
        )
        torch.testing.assert_close(product[1], randn(T, 1, A, seed=3))

    def test_sample_and_mode(self):
        dist, noise = gaussian(0, True), randn(T, N, A, seed=4)
        torch.testing.assert_close(dist.sample(noise), dist.mean + dist.log_std.exp() * noise)
        assert torch.equal(dist.mode(), dist.mean)

    def test_log_std_has_a_floor(self):
        policy = make_policy()
        stack = random_stack(policy)
        stack["log_std"] = torch.full((T, A), -50.0, dtype=torch.float64)
        stack["log_std"][0, 0] = -1.0
        log_std = policy.distribution(stack, randn(T, N, OBSERVATION_SIZE)).log_std
        assert log_std.min() == pytest.approx(math.log(1e-6))
        assert log_std[0, 0, 0] == -1.0


class TestCategorical:
    def test_log_prob(self):
        logits, actions = randn(T, N, 4), torch.arange(T * N).reshape(T, N) % 4
        log_prob = Categorical(logits).log_prob(actions)
        torch.testing.assert_close(
            log_prob, td.Categorical(logits=logits).log_prob(actions), **CLOSE
        )

    def test_kl(self):
        p, q = randn(T, N, 4), randn(T, N, 4, seed=1)
        expected = td.kl_divergence(td.Categorical(logits=p), td.Categorical(logits=q))
        torch.testing.assert_close(Categorical(p).kl(Categorical(q)), expected, **CLOSE)
        torch.testing.assert_close(
            Categorical(p).kl(Categorical(p + 3)), torch.zeros_like(expected), **CLOSE
        )

    def test_fisher_product(self):
        check_fisher_product(Categorical(randn(T, N, 4)))

    def test_gumbel_samples_have_the_frequencies_of_the_softmax(self):
        policy = make_policy(discrete=True)
        num_samples = 20_000
        logits = torch.tensor([[[0.0, 1.0, -1.5]], [[2.0, 0.0, 0.0]]])
        noise = policy.draw_noise(np.random.default_rng(0), (2, num_samples))
        assert noise.shape == (2, num_samples, 3)
        assert noise.dtype == np.float32
        actions = Categorical(logits.expand(2, num_samples, 3)).sample(torch.from_numpy(noise))
        assert actions.dtype == torch.int64
        frequencies = torch.nn.functional.one_hot(actions, 3).float().mean(1)
        p = logits[:, 0].softmax(-1)
        assert ((frequencies - p).abs() < 4.5 * (p * (1 - p) / num_samples).sqrt()).all()

    def test_mode(self):
        logits = torch.tensor([[[0.0, 1.0, -1.5], [2.0, 0.0, 0.0]]])
        assert Categorical(logits).mode().tolist() == [[1, 0]]


class TestMultiCategorical:
    CHOICES = (2, 4, 3)

    def dist(self, seed: int = 0) -> MultiCategorical:
        policy = MLPPolicy(
            OBSERVATION_SIZE,
            ActionHead(sum(self.CHOICES), discrete=True, num_choices=self.CHOICES),
            hidden_sizes=(4,),
            nonlinearity="tanh",
            init_std=1.0,
            rng=np.random.default_rng(0),
            dtype=torch.float64,
        )
        self.policy, self.stack = policy, random_stack(policy)
        self.observations = randn(T, N, OBSERVATION_SIZE, seed=seed)
        return policy.distribution(self.stack, self.observations)

    def parts(self, dist: MultiCategorical) -> list[td.Categorical]:
        return [td.Categorical(logits=dist.logits[:, :, d, :n]) for d, n in enumerate(self.CHOICES)]

    def test_logits_are_those_of_the_network(self):
        dist = self.dist()
        layer = self.stack
        x = torch.tanh(self.observations @ layer["weight_0"] + layer["bias_0"][:, None])
        x = x @ layer["weight_1"] + layer["bias_1"][:, None]
        logits = torch.cat([dist.logits[:, :, d, :n] for d, n in enumerate(self.CHOICES)], -1)
        torch.testing.assert_close(logits, x, **CLOSE)

    def test_log_prob_sums_over_actions(self):
        dist = self.dist()
        actions = torch.stack([torch.arange(T * N).reshape(T, N) % n for n in self.CHOICES], -1)
        expected = sum(part.log_prob(actions[..., d]) for d, part in enumerate(self.parts(dist)))
        torch.testing.assert_close(dist.log_prob(actions), expected, **CLOSE)

    def test_kl_sums_over_actions(self):
        dist, other = self.dist(), self.dist(seed=1)
        pairs = zip(self.parts(dist), self.parts(other), strict=True)
        torch.testing.assert_close(
            dist.kl(other), sum(td.kl_divergence(p, q) for p, q in pairs), **CLOSE
        )
        assert torch.equal(dist.kl(dist), torch.zeros(T, N, dtype=torch.float64))

    def test_fisher_product(self):
        dist, weights = self.dist(), randn(T, N, seed=9).abs()
        tangent = randn(*dist.logits.shape, seed=3)
        (product,) = dist.fisher_product([tangent], weights)
        for d, n in enumerate(self.CHOICES):
            p = dist.logits[:, :, d, :n].softmax(-1)
            # The explicit matrix of each state.
            fisher = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
            expected = weights[..., None] * (fisher @ tangent[:, :, d, :n, None])[..., 0]
            torch.testing.assert_close(product[:, :, d, :n], expected, **CLOSE)
            assert (product[:, :, d, n:] == 0).all()

    def test_samples_have_the_frequencies_of_the_softmax(self):
        num_samples = 20_000
        logits = self.dist().logits[:1, :1].float()
        noise = self.policy.draw_noise(np.random.default_rng(0), (1, num_samples))
        actions = MultiCategorical(logits.expand(1, num_samples, -1, -1)).sample(
            torch.from_numpy(noise)
        )
        assert actions.shape == (1, num_samples, 3)
        frequencies = torch.nn.functional.one_hot(actions[0], 4).float().mean(0)
        p = logits[0, 0].softmax(-1)
        assert ((frequencies - p).abs() <= 4.5 * (p * (1 - p) / num_samples).sqrt()).all()

    def test_mode(self):
        dist = self.dist()
        expected = torch.stack([part.probs.argmax(-1) for part in self.parts(dist)], -1)
        assert torch.equal(dist.mode(), expected)

    def test_gradients_are_finite_and_zero_for_padded_choices(self):
        dist = self.dist()
        logits = dist.logits.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(
            MultiCategorical(logits.detach() * 0.5).kl(MultiCategorical(logits)).sum(), logits
        )
        assert gradient.isfinite().all()
        assert all((gradient[:, :, d, n:] == 0).all() for d, n in enumerate(self.CHOICES))


class TestMLPPolicy:
    @pytest.mark.parametrize("discrete", [False, True])
    @pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "elu", "silu"])
    @pytest.mark.parametrize("hidden_sizes", [(), (4,), (5, 3)])
    def test_stack_equals_one_task_at_a_time(self, discrete, nonlinearity, hidden_sizes):
        policy = make_policy(discrete, nonlinearity=nonlinearity, hidden_sizes=hidden_sizes)
        stack, observations = random_stack(policy), randn(T, N, OBSERVATION_SIZE, seed=8)
        batch = policy.distribution(stack, observations)
        activation = getattr(torch.nn.functional, nonlinearity)
        for i in range(T):
            task = {name: value[i] for name, value in stack.items()}
            x = observations[i]
            for layer in range(len(hidden_sizes) + 1):
                x = activation(x) if layer else x
                x = x @ task[f"weight_{layer}"] + task[f"bias_{layer}"]
            alone = {name: value[None] for name, value in task.items()}
            single = policy.distribution(alone, observations[i][None])
            torch.testing.assert_close(batch[0][i], x, **CLOSE)
            for ours, theirs in zip(batch, single, strict=True):
                torch.testing.assert_close(ours[i], theirs[0], **CLOSE)
            if not discrete:
                torch.testing.assert_close(batch.log_std[i, 0], task["log_std"], **CLOSE)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "sizes", [(5, 7, 3), (20, 7, 3), (5, 20, 3), (5, 7, 20), (20, 20, 20), (1, 1, 1)]
    )
    def test_value_and_gradients_of_a_layer(self, sizes):
        states, fan_in, fan_out = sizes
        rng = np.random.default_rng(0)
        settings = {
            "hidden_sizes": (),
            "nonlinearity": "tanh",
            "init_std": 1.0,
            "dtype": torch.float64,
        }
        policy = MLPPolicy(fan_in, ActionHead(fan_out, discrete=True), rng=rng, **settings)

        def logits(x, weight, bias):
            return policy.distribution({"weight_0": weight, "bias_0": bias}, x).logits

        inputs = [
            randn(*shape).requires_grad_()
            for shape in ((2, states, fan_in), (2, fan_in, fan_out), (2, fan_out))
        ]
        x, weight, bias = inputs
        expected = torch.einsum("tnk,tkm->tnm", x, weight) + bias[:, None]
        actual = logits(*inputs)
        assert actual.is_contiguous()
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        assert torch.autograd.gradcheck(logits, inputs)
        assert torch.autograd.gradgradcheck(logits, inputs)
        for i, moving in enumerate(inputs):  # also where only one of them needs a gradient
            only = [value if j == i else value.detach() for j, value in enumerate(inputs)]
            (gradient,) = torch.autograd.grad(logits(*only).square().sum(), moving)
            (expected_gradient,) = torch.autograd.grad(
                expected.square().sum(), moving, retain_graph=True
            )
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)

    def test_initial_parameters(self):
        rng = np.random.default_rng(0)
        policy = MLPPolicy(
            30,
            ActionHead(20),
            hidden_sizes=(50,),
            nonlinearity="tanh",
            init_std=0.5,
            rng=rng,
            dtype=torch.float64,
        )
        theta = parameters(policy)
        for name, fans in (("weight_0", (30, 50)), ("weight_1", (50, 20))):
            assert theta[name].shape == fans
            bound = math.sqrt(6 / sum(fans))
            assert 0.97 * bound < theta[name].abs().max() <= bound
            assert abs(theta[name].mean()) < 0.1 * bound
        assert all((theta[name] == 0).all() for name in ("bias_0", "bias_1"))
        torch.testing.assert_close(
            theta["log_std"].exp(), torch.full((20,), 0.5, dtype=torch.float64)
        )
        assert "log_std" not in parameters(make_policy(discrete=True))

    def test_gaussian_noise_is_standard(self):
        noise = make_policy().draw_noise(np.random.default_rng(0), (5, 4000))
        assert noise.shape == (5, 4000, A)
        assert noise.dtype == np.float32
        assert abs(noise.mean()) < 0.02
        assert abs(noise.std() - 1) < 0.02


class TestParameters:
    def test_are_copies(self):
        policy = make_policy()
        theta = parameters(policy)
        theta["weight_0"].zero_()
        assert policy.weight_0.abs().max() > 0
        assert not any(value.requires_grad for value in theta.values())

    def test_stack_holds_separate_copies_without_a_graph(self):
        theta = {"w": randn(2, 3).requires_grad_()}
        stack = make_stack(theta, T)
        assert stack["w"].shape == (T, 2, 3)
        assert not stack["w"].requires_grad
        stack["w"][0].zero_()
        assert torch.equal(stack["w"][1], theta["w"])
        assert theta["w"].abs().max() > 0

    @pytest.mark.parametrize("lead", [(), (T,)])
    def test_flatten_and_unflatten_are_inverse(self, lead):
        like = parameters(make_policy())
        values = {
            name: randn(*lead, *value.shape, seed=i) for i, (name, value) in enumerate(like.items())
        }
        vector = flatten(values, batch_dims=len(lead))
        assert vector.shape == (*lead, sum(value.numel() for value in like.values()))
        back = unflatten(vector, like)
        assert list(back) == list(values)
        assert all(torch.equal(back[name], values[name]) for name in values)


class TestActionHead:
    def test_of_each_kind_of_space(self):
        assert ActionHead.of(spaces.Box(-1, 1, (4,))) == ActionHead(4)
        assert ActionHead.of(spaces.Box(-1, 1, (2, 3))) == ActionHead(6)
        assert ActionHead.of(spaces.Discrete(5, start=2)) == ActionHead(5, discrete=True)
        several = ActionHead.of(spaces.MultiDiscrete([3, 2]))
        assert several == ActionHead(5, discrete=True, num_choices=(3, 2))

    @pytest.mark.parametrize(
        "space",
        [spaces.Box(0, 9, (2,), np.int64), spaces.MultiDiscrete([[3, 2]]), spaces.MultiBinary(3)],
    )
    def test_refuses_other_spaces(self, space):
        with pytest.raises(UserError, match="not supported"):
            ActionHead.of(space)


class TestMakePolicy:
    ACTIONS = spaces.Box(-1, 1, (2,))

    def test_observations_of_several_axes_are_flattened(self):
        space = spaces.Box(0, 255, (4, 3, 2), np.uint8)
        policy = make_policy_of(PolicyConfig(), space, self.ACTIONS, 0)
        assert policy.observation_shape == (24,)
        observations = np.random.default_rng(0).random((5, 4, 3, 2), np.float32)
        act = PolicyActor(policy, make_stack(parameters(policy), 1), None, None)
        act.start(slice(0, 5))
        stack = make_stack(parameters(policy), 1)
        expected = policy.distribution(stack, torch.from_numpy(observations.reshape(1, 5, 24)))
        np.testing.assert_allclose(
            act.act(observations, 0), expected.mode()[0], rtol=1e-4, atol=1e-6
        )
        inputs = act.inputs(torch.from_numpy(observations)[None, :, None])
        assert torch.equal(inputs[0, :, 0], torch.from_numpy(observations).flatten(1))

    def test_large_observations_need_a_network(self):
        space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
        with pytest.raises(UserError, match=r"3072 entries .* at most 2000: set policy\.network"):
            make_policy_of(PolicyConfig(), space, self.ACTIONS, 0)

    @pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
    def test_actions_need_an_axis_and_an_entry(self, shape):
        actions = spaces.Box(-1, 1, shape, np.float32)
        with pytest.raises(UserError, match="at least one axis and one entry"):
            make_policy_of(PolicyConfig(), spaces.Box(-1, 1, (3,), np.float32), actions, 0)

    def test_other_spaces_are_refused(self):
        with pytest.raises(UserError, match=r"Discrete.* is not supported: expected a Box"):
            make_policy_of(PolicyConfig(), spaces.Discrete(3), self.ACTIONS, 0)
