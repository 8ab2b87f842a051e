"""RL²: sequences of trials, advantages, the loss and its gradient, PPO, failures, and learning."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import helpers.memory_tasks
import numpy as np
import pytest
import torch
from helpers.recurrent import (
    HORIZON,
    LENGTHS,
    VARIANTS,
    PlayedTrials,
    along_trials,
    assert_gradient,
    make_batch,
    make_policy,
    make_sequence,
    make_stage,
    make_stages,
    make_theta,
    moved,
    nothing_before,
    plain_trial,
)
from helpers.runs import last, tiny
from torch import Tensor

import maml_rl
from maml_rl.learners.adam import ascend, initial_state
from maml_rl.learners.iteration_result import MAX_FAILED_OUTER_STEPS
from maml_rl.learners.recurrent import iteration as trial_iteration
from maml_rl.learners.recurrent import ppo
from maml_rl.learners.recurrent.actor import RecurrentActor
from maml_rl.learners.recurrent.batch import TrialBatch, evaluated_trials
from maml_rl.learners.recurrent.ppo import Terms, loss_terms, ppo_update
from maml_rl.learners.recurrent.sequence import TrialSequence, trial_advantages, trial_sequence
from maml_rl.learners.recurrent.trial_gradient import mean_gradient
from maml_rl.learners.recurrent.value_scale import ValueScale
from maml_rl.learners.rl2.learner import RL2
from maml_rl.learners.trials import play_trials, sample_tasks
from maml_rl.policies.parameters import flatten
from maml_rl.policies.recurrent.network import RecurrentPolicy
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import OUTER_STEP, TooManyFailures
from maml_rl.settings.learners import RL2Config
from maml_rl.settings.learners.rl2 import Cell
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import Training, open_training

STREAMS = RandomStreams(0, Phase.TRAINING, 0)
CONFIG = RL2Config(clip_range=0.1, entropy_coefficient=0.3, value_coefficient=0.7)
ALL = 1 << 20
"""Trials per block: one block."""

variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def new_of(theta: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters whose ratios to those of ``theta`` are partly outside the clip range."""
    return moved(theta, 0.05)


def real(sequence: TrialSequence, values: Tensor) -> Tensor:
    """The values of the real steps."""
    return values[sequence.mask > 0]


# --- The sequence of a trial ---


def by_hand() -> tuple[list[Episodes], RecurrentPolicy]:
    """Two tasks: episodes of 2 and 3 steps, and of 4 and 1. The j-th step observes and earns j."""
    policy = make_policy("discrete")
    rng = np.random.default_rng(0)
    stages = []
    for stage, lengths in enumerate(([[2], [4]], [[3], [1]])):
        episodes = make_stage(policy, lengths, rng, garbage=-7.0)
        steps = 10.0 * stage + torch.arange(HORIZON, dtype=torch.float64).expand(2, 1, -1)
        steps = torch.where(episodes.mask > 0, steps, -7.0)
        stages.append(
            dataclasses.replace(
                episodes,
                rewards=steps,
                observations=steps[..., None].expand(-1, -1, -1, 3),
                actions=torch.where(episodes.mask > 0, (steps % 3).long(), 0),
            )
        )
    return stages, policy


def test_a_sequence_joins_episodes_and_shifts_what_came_before() -> None:
    stages, policy = by_hand()
    before = torch.arange(10, dtype=torch.float64).reshape(2, 5)
    sequence = trial_sequence(stages, before, policy.action_head)
    assert sequence.mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    rewards = [[0, 1, 10, 11, 12], [0, 1, 2, 3, 10]]
    assert sequence.rewards.tolist() == rewards
    assert sequence.observations[..., 1].tolist() == rewards
    actions = [[0, 1, 1, 2, 0], [0, 1, 2, 0, 1]]
    assert sequence.actions.tolist() == actions
    assert sequence.ends.tolist() == [[0, 1, 0, 0, 1], [0, 0, 0, 1, 1]]
    # Previous action as one-hot, reward, end of an episode.
    assert sequence.previous[0].tolist() == [
        [0, 1, 2, 3, 4],
        [1, 0, 0, 0, 0],
        [0, 1, 0, 1, 1],
        [0, 1, 0, 10, 0],
        [0, 0, 1, 11, 0],
    ]
    assert sequence.previous[1].tolist() == [
        [5, 6, 7, 8, 9],
        [1, 0, 0, 0, 0],
        [0, 1, 0, 1, 0],
        [0, 0, 1, 2, 0],
        [1, 0, 0, 3, 1],
    ]
    assert sequence.last.tolist() == [[1, 0, 0, 12, 1], [0, 1, 0, 10, 1]]


def test_padding_comes_last_and_a_trial_without_steps_keeps_what_came_before() -> None:
    policy = make_policy()
    rng = np.random.default_rng(0)
    stages = [
        make_stage(policy, [[1], [0], [4]], rng),
        make_stage(policy, [[2], [0], [1]], rng),
    ]
    before = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sequence = trial_sequence(stages, before, policy.action_head)
    assert sequence.mask.tolist() == [[1, 1, 1, 0, 0], [0] * 5, [1] * 5]
    assert sequence.ends.sum(1).tolist() == [2, 0, 2]
    assert sequence.last[1].equal(before[1])
    action = stages[1].actions[0, 0, 1]
    assert sequence.last[0].tolist() == [*action.tolist(), float(stages[1].rewards[0, 0, 1]), 1]


def test_several_episodes_of_a_stage_follow_one_another() -> None:
    """As two stages of one episode each."""
    policy = make_policy()
    stages = make_stages(policy)
    both = {
        field.name: torch.cat([getattr(stage, field.name) for stage in stages], dim=1)
        for field in dataclasses.fields(Episodes)
        if field.name != "distribution"
    }
    together = Episodes(**both, distribution=())
    joined = trial_sequence([together], nothing_before(policy), policy.action_head)
    for value, expected in zip(joined, make_sequence(policy), strict=True):
        assert value.equal(expected)


@variants
def test_a_belief_continues_the_trial(options: dict[str, Any]) -> None:
    """Episode by episode from the belief so far, memory and sequence are those of the whole."""
    policy = make_policy(**options)
    learner = make_learner(policy)
    state = learner.initial_state()
    theta = make_theta(policy)
    state = state._replace(tensors={**state.tensors, "theta": theta})
    stages = make_stages(policy, garbage=3.0)
    whole = make_sequence(policy, garbage=3.0)
    belief = learner.prior(state, 4)
    previous = []
    for number, stage in enumerate(stages):
        part = trial_sequence([stage], belief["previous"], policy.action_head)
        previous.append([row[mask > 0] for row, mask in zip(part.previous, part.mask, strict=True)])
        belief = learner.update(state, belief, stage, number)
    for i in range(4):
        expected = plain_trial(policy, theta, stages, i, torch.zeros(policy.task_size).double())
        torch.testing.assert_close(belief["memory"][i], expected[-1].memory)
        assert torch.cat([part[i] for part in previous]).equal(whole.previous[i, whole.mask[i] > 0])
    assert belief["previous"].equal(whole.last)


def make_learner(policy: RecurrentPolicy) -> RL2:
    """A learner whose blocks are smaller than the four trials."""
    return RL2(
        policy=policy,
        config=RL2Config(),
        normalizes=False,
        num_adaptation_steps=1,
        num_training_stages=2,
        max_failed_share=0.5,
        device=torch.device("cpu"),
        seed=0,
        trials_per_block=3,
    )


# --- Advantages ---


def test_advantages_equal_an_example_by_hand() -> None:
    """γ = 1/2, λ = 1/2; one trial of 1 + 2 steps and padding, with a horizon of 2."""
    sequence = make_sequence(make_policy())._replace(
        rewards=torch.tensor([[1.0, 2.0, 4.0, 99.0]]),
        mask=torch.tensor([[1.0, 1.0, 1.0, 0.0]]),
        ends=torch.tensor([[1.0, 0.0, 1.0, 0.0]]),
        times=torch.tensor([[0.0, 2.0, 3.0, 1.0]]),
    )
    values = torch.tensor([[8.0, 4.0, 2.0, 99.0]])
    # The first episode ends one step before the horizon: γ² = 1/4 there.
    # δ = 1 + 1 − 8, 2 + 1 − 4, 4 + 0 − 2 = −6, −1, 2; γ²λ = 1/8, γλ = 1/4.
    across = trial_advantages(sequence, values, 0.5, 0.5, across=True)
    assert across.tolist() == [[-6 + (-1 + 2 / 4) / 8, -1 + 2 / 4, 2, 0]]
    # δ₀ = 1 + 0 − 8.
    within = trial_advantages(sequence, values, 0.5, 0.5, across=False)
    assert within.tolist() == [[-7, -1 + 2 / 4, 2, 0]]


@pytest.mark.parametrize("across", [True, False])
def test_advantages_equal_the_direct_sum(across: bool) -> None:
    """Â_t = Σ_k λ^(k−t) γ^(τ_k−τ_t) δ_k, over the rest of the trial or of the episode.

    τ is the time if every episode takes its whole horizon.
    """
    gamma, lam = 0.9, 0.8
    sequence = make_sequence(make_policy(), garbage=50.0)
    values = torch.from_numpy(np.random.default_rng(2).standard_normal(sequence.mask.shape))
    advantages = trial_advantages(sequence, values, gamma, lam, across)
    for i, mask in enumerate(sequence.mask):
        length = int(mask.sum())
        times = [HORIZON * number + t for number in (0, 1) for t in range(LENGTHS[number][i][0])]
        deltas = []
        for t in range(length):
            stops = t == length - 1 or (not across and sequence.ends[i, t] > 0)
            following = 0.0 if stops else float(values[i, t + 1])
            until = 0 if stops else times[t + 1] - times[t]
            value = float(values[i, t])
            deltas.append(float(sequence.rewards[i, t]) + gamma**until * following - value)
        for t in range(length):
            expected = 0.0
            for k in range(t, length):
                expected += lam ** (k - t) * gamma ** (times[k] - times[t]) * deltas[k]
                if not across and sequence.ends[i, k] > 0:
                    break
            assert float(advantages[i, t]) == pytest.approx(expected, rel=1e-12)
        assert not advantages[i, length:].any()


@pytest.mark.parametrize("across", [True, False])
def test_a_reward_in_episode_2_gives_credit_to_episode_1(across: bool) -> None:
    """Or none, if credit does not cross the border."""
    policy = make_policy()
    theta = make_theta(policy)
    batch = make_batch(policy, theta)
    ends = batch.sequence.ends
    is_first = (ends.cumsum(1) - ends == 0) & (batch.sequence.mask > 0)
    rewards = torch.where(is_first, 0.0, batch.sequence.rewards)
    sequence = batch.sequence._replace(rewards=rewards)
    nothing = torch.zeros_like(rewards)
    advantages = trial_advantages(sequence, nothing, 0.99, 0.95, across)
    assert (advantages[is_first] != 0).all() == across
    assert (advantages[is_first] == 0).all() != across
    # The gradient with respect to the distribution of each action.
    batch = batch._replace(sequence=sequence, advantages=advantages)
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    dist, _ = along_trials(policy, leaves, sequence)
    ratio = torch.exp(dist.log_prob(sequence.actions) - batch.log_probs)
    (gradient,) = torch.autograd.grad((ratio * advantages).sum(), dist.mean)
    flows = gradient.abs().sum(-1) > 0
    assert flows[is_first].all() == across
    assert flows[~is_first & (sequence.mask > 0)].all()


# --- The loss ---


def plain_loss(
    policy: RecurrentPolicy, old: dict[str, Tensor], new: dict[str, Tensor], batch: TrialBatch
) -> tuple[float, dict[str, float]]:
    """The loss of all trials, and the sums of its terms, from the equations."""
    totals = dict.fromkeys(Terms._fields, 0.0)
    stages = make_stages(policy)
    for i in range(4):
        task = None if batch.tasks is None else batch.tasks[i]
        before = plain_trial(policy, old, stages, i, task)
        after = plain_trial(policy, new, stages, i, task)
        for t, (was, now) in enumerate(zip(before, after, strict=True)):
            action, advantage = batch.sequence.actions[i, t], float(batch.advantages[i, t])
            ratio = math.exp(now.log_prob(action) - was.log_prob(action))
            clipped = min(max(ratio, 1 - CONFIG.clip_range), 1 + CONFIG.clip_range)
            totals["surrogate"] += min(ratio * advantage, clipped * advantage)
            totals["value_error"] += 0.5 * float(now.value - batch.targets[i, t]) ** 2
            totals["entropy"] += float(now.entropy())
            totals["kl"] += float(now.kl_from(was))
            totals["clipped"] += ratio != clipped
    total = -totals["surrogate"] + CONFIG.value_coefficient * totals["value_error"]
    return total - CONFIG.entropy_coefficient * totals["entropy"], totals


@variants
def test_the_loss_equals_the_equations(options: dict[str, Any]) -> None:
    policy = make_policy(**options)
    theta = make_theta(policy)
    new = new_of(theta)
    batch = make_batch(policy, theta, garbage=3.0)
    terms = loss_terms(policy, new, batch, CONFIG)
    expected, totals = plain_loss(policy, theta, new, batch)
    for name, value in terms._asdict().items():
        assert float(value.sum()) == pytest.approx(totals[name], rel=1e-9), name
    assert float(ppo.loss(terms, CONFIG).sum()) == pytest.approx(expected, rel=1e-9)
    assert 0 < totals["clipped"] < int(batch.sequence.mask.sum())


@variants
def test_the_gradient_of_the_loss_equals_finite_differences(options: dict[str, Any]) -> None:
    """In random directions of every parameter tensor, and of all of them at once."""
    policy = make_policy(**options)
    theta = make_theta(policy)
    batch = make_batch(policy, theta, garbage=3.0)

    def loss(at: dict[str, Tensor]) -> Tensor:
        return ppo.loss(loss_terms(policy, at, batch, CONFIG), CONFIG).sum()

    assert_gradient(loss, new_of(theta))


@pytest.mark.parametrize("garbage", [3.0, -1e4, 1e4])
def test_padding_has_no_part_in_loss_and_gradient(garbage: float) -> None:
    """Also where the ratio of the padding overflows."""
    policy = make_policy("discrete")
    theta = make_theta(policy)
    results = []
    for value in (0.0, garbage):
        batch = make_batch(policy, theta, garbage=value)
        leaves = {name: v.clone().requires_grad_() for name, v in new_of(theta).items()}
        terms = loss_terms(policy, leaves, batch, CONFIG)
        gradients = torch.autograd.grad(ppo.loss(terms, CONFIG).sum(), list(leaves.values()))
        results.append((*terms, *gradients))
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected)


def test_policy_and_value_share_the_cell_only() -> None:
    """Surrogate and entropy do not depend on ``value``, nor the values' error on ``policy``."""
    policy = make_policy()
    theta = make_theta(policy)
    leaves = {name: value.clone().requires_grad_() for name, value in new_of(theta).items()}
    terms = loss_terms(policy, leaves, make_batch(policy, theta), CONFIG)
    for term, other in ((terms.surrogate + terms.entropy, "value"), (terms.value_error, "policy")):
        names = [name for name in leaves if name.startswith(f"{other}_")]
        values = [leaves[name] for name in names]
        gradients = torch.autograd.grad(term.sum(), values, allow_unused=True, retain_graph=True)
        assert gradients == (None,) * len(names)


def test_the_loss_cuts_backpropagation_where_the_setting_says() -> None:
    """The gradient changes, the loss does not."""
    policy = make_policy()
    theta = make_theta(policy)
    batch = make_batch(policy, theta)
    results = []
    for truncation in (None, 2, 100):
        config = dataclasses.replace(CONFIG, truncation=truncation)
        leaves = {name: value.clone().requires_grad_() for name, value in new_of(theta).items()}
        loss = ppo.loss(loss_terms(policy, leaves, batch, config), config).sum()
        (gradient,) = torch.autograd.grad(loss, leaves["cell_weight_hh"])
        results.append((loss.detach(), gradient))
    whole, cut, longer = results
    torch.testing.assert_close(longer, whole)
    torch.testing.assert_close(cut[0], whole[0])
    assert float((cut[1] - whole[1]).norm()) > 0.01 * float(whole[1].norm())


# --- Statistics of the targets ---


def test_the_scale_is_a_weighted_mean_and_deviation() -> None:
    """The k-th last iteration has the weight 0.95^k, whatever its number of targets."""
    rng = np.random.default_rng(0)
    batches = [torch.from_numpy(rng.normal(k, 1 + k, 5 + 3 * k)) for k in range(4)]
    scale = ValueScale.empty(torch.device("cpu"))
    values = torch.tensor([-1.0, 0.0, 5.0])
    assert scale.normalize(values).equal(values)
    assert scale.denormalize(values).equal(values)
    for batch in batches:
        scale = scale.updated(batch, Ranks())
    weights = np.array([0.95**3, 0.95**2, 0.95, 1])
    mean = np.average([batch.mean() for batch in batches], weights=weights)
    square = np.average([(batch**2).mean() for batch in batches], weights=weights)
    std = math.sqrt(square - mean**2)
    assert float(scale.mean) == pytest.approx(mean)
    assert float(scale.std) == pytest.approx(std)
    torch.testing.assert_close(scale.normalize(values), ((values - mean) / std).float())
    torch.testing.assert_close(scale.denormalize(scale.normalize(values)), values)


def test_the_scale_of_equal_targets_only_shifts() -> None:
    scale = ValueScale.empty(torch.device("cpu")).updated(torch.full((7,), 3.5), Ranks())
    assert float(scale.std) == 1
    assert scale.normalize(torch.tensor([3.5, 4.5])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("targets", "std"),
    [
        ([2e-6, 4e-6], 1e-6),  # small, but more than rounding
        ([1e8, 1e8 + 1, 1e8 + 2], 1.0),  # lost in the rounding of the mean
        ([7.0, 7.0, 7.0], 1.0),
        ([0.0, 0.0], 1.0),
    ],
)
def test_the_scale_does_not_depend_on_the_unit_of_the_targets(
    targets: list[float], std: float
) -> None:
    values = torch.tensor(targets, dtype=torch.float64)
    scale = ValueScale.empty(torch.device("cpu")).updated(values, Ranks())
    assert float(scale.std) == pytest.approx(std)
    assert float(scale.variance) == pytest.approx(std**2 if std < 1 else 0)


def test_values_explain_nothing_of_targets_without_variance(tmp_path: Path) -> None:
    settings = tiny(
        tmp_path / "run",
        env="helpers.odd_environments:odd/ConstantReward-v0",
        horizon=1,
        learner={"name": "rl2", "num_episodes": 1, "num_minibatches": 1, "hidden_size": 8},
    )
    with open_training(settings) as training:
        metrics = training.iterate().metrics
    assert math.isnan(metrics["update/explained_variance"])


def test_the_scale_includes_the_targets_of_all_processes() -> None:
    """Two processes with unequal numbers of targets are as one with all of them."""
    parts = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([-4.0])]

    class OneOfTwo(Ranks):
        def _all_reduce(self, values: Tensor) -> Tensor:
            x = parts[1].double()
            return values + torch.stack([x.sum(), x.square().sum(), torch.tensor(1.0)])

    empty = ValueScale.empty(torch.device("cpu"))
    shared = empty.updated(parts[0], OneOfTwo(number=2))
    alone = empty.updated(torch.cat(parts), Ranks())
    torch.testing.assert_close(tuple(shared), tuple(alone))


# --- Updates ---


def run_ppo(
    batch: TrialBatch,
    theta: dict[str, Tensor],
    config: RL2Config,
    *,
    num_trials: int = 4,
    step_size: float = 1e-3,
    block_size: int = ALL,
) -> tuple[Any, dict[str, Tensor], dict[str, float]]:
    return ppo_update(
        make_policy(),
        theta,
        initial_state(theta),
        batch,
        torch.arange(num_trials)[-len(batch.log_probs) :],
        num_trials,
        config,
        step_size,
        STREAMS.minibatches(),
        Ranks(),
        block_size,
    )


@pytest.fixture
def theta() -> dict[str, Tensor]:
    return make_theta(make_policy())


@pytest.fixture
def batch(theta: dict[str, Tensor]) -> TrialBatch:
    return make_batch(make_policy(), theta)


def changed(**settings: Any) -> RL2Config:
    """Settings of one update, changed."""
    values = {"num_epochs": 1, "num_minibatches": 1, "target_kl": 1e6, "max_gradient_norm": 1e6}
    return dataclasses.replace(CONFIG, **values | settings)


@pytest.mark.parametrize("block_size", [1, 3, ALL])
def test_an_update_descends_the_mean_loss_per_step(
    theta: dict[str, Tensor], batch: TrialBatch, block_size: int
) -> None:
    """Adam's first moment is 0.1 times the gradient of the mean over all real steps."""
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    loss = ppo.loss(loss_terms(make_policy(), leaves, batch, CONFIG), CONFIG).sum()
    gradients = torch.autograd.grad(loss / batch.sequence.mask.sum(), list(leaves.values()))
    gradient = torch.cat([value.flatten() for value in gradients])
    new, state, metrics = run_ppo(batch, theta, changed(), block_size=block_size)
    torch.testing.assert_close(state["exp_avg"], 0.1 * gradient)
    expected, _ = ascend(theta, -gradient, initial_state(theta), 1e-3)
    torch.testing.assert_close(flatten(new), flatten(expected))
    assert metrics["update/gradient_norm"] == pytest.approx(float(gradient.norm()))
    assert metrics["update/num_steps"] == 1
    assert metrics["update/kl"] == pytest.approx(0, abs=1e-12)
    # A small enough step decreases the loss.
    small = run_ppo(batch, theta, changed(), step_size=1e-5)[0]
    assert float(ppo.loss(loss_terms(make_policy(), small, batch, CONFIG), CONFIG).sum()) < loss


def test_metrics_are_means_over_the_updates(
    theta: dict[str, Tensor], batch: TrialBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def recorded(*arguments: Any) -> Any:
        gradient, means = mean_gradient(*arguments)
        steps.append({**Terms(*means)._asdict(), "gradient_norm": gradient.norm()})
        return gradient, means

    monkeypatch.setattr(ppo, "mean_gradient", recorded)
    _, _, metrics = run_ppo(batch, theta, changed(num_epochs=3), step_size=1e-2)
    assert len(steps) == 3
    assert metrics["update/kl"] == pytest.approx(float(steps[-1]["kl"]))
    for name in ("surrogate", "entropy", "gradient_norm"):
        values = [float(step[name]) for step in steps]
        assert metrics[f"update/{name}"] == pytest.approx(sum(values) / 3)
        assert values[0] != values[2]


def test_the_gradient_is_scaled_down_to_its_bound(
    theta: dict[str, Tensor], batch: TrialBatch
) -> None:
    _, free, metrics = run_ppo(batch, theta, changed())
    norm = metrics["update/gradient_norm"]
    _, bounded, metrics = run_ppo(batch, theta, changed(max_gradient_norm=norm / 4))
    torch.testing.assert_close(bounded["exp_avg"], free["exp_avg"] / 4)
    assert metrics["update/gradient_norm"] == pytest.approx(norm)
    _, unbounded, _ = run_ppo(batch, theta, changed(max_gradient_norm=norm * 2))
    assert unbounded["exp_avg"].equal(free["exp_avg"])


@pytest.mark.parametrize(("num_minibatches", "sizes"), [(1, [4]), (2, [2, 2]), (3, [2, 1, 1])])
def test_minibatches_are_of_whole_trials_and_cover_each_once_per_epoch(
    theta: dict[str, Tensor],
    batch: TrialBatch,
    monkeypatch: pytest.MonkeyPatch,
    num_minibatches: int,
    sizes: list[int],
) -> None:
    minibatches = []

    def recorded(policy: Any, at: Any, part: TrialBatch, config: Any) -> Terms:
        rows = part.log_probs[:, None] == batch.log_probs
        minibatches.append(rows.all(-1).int().argmax(1).tolist())
        for value, whole in zip(part.sequence, batch.sequence, strict=True):
            assert value.equal(whole[minibatches[-1]])
        return loss_terms(policy, at, part, config)

    monkeypatch.setattr(ppo, "loss_terms", recorded)
    config = changed(num_epochs=5, num_minibatches=num_minibatches)
    _, _, metrics = run_ppo(batch, theta, config)
    assert metrics["update/num_steps"] == 5 * num_minibatches == len(minibatches)
    epochs = [
        minibatches[i : i + num_minibatches] for i in range(0, len(minibatches), num_minibatches)
    ]
    for epoch in epochs:
        assert [len(part) for part in epoch] == sizes
        assert sorted(itertools.chain(*epoch)) == [0, 1, 2, 3]
    assert num_minibatches == 1 or len({str(epoch) for epoch in epochs}) > 1


def test_trials_that_failed_are_missing_from_their_minibatch(
    theta: dict[str, Tensor], batch: TrialBatch
) -> None:
    """Trial 0 of 4 has failed; the minibatches without it are as before, one of it is skipped."""
    left = batch.chosen(slice(1, 4))
    _, _, metrics = run_ppo(left, theta, changed(num_minibatches=4))
    assert metrics["update/num_steps"] == 3
    one, _, _ = run_ppo(left, theta, changed())
    alone, _, _ = run_ppo(left, theta, changed(), num_trials=3)
    torch.testing.assert_close(flatten(one), flatten(alone))


def test_updates_end_beyond_the_target_kl(theta: dict[str, Tensor], batch: TrialBatch) -> None:
    """The step that would follow is not taken."""
    config = changed(num_epochs=50, target_kl=0.01)
    new, state, metrics = run_ppo(batch, theta, config)
    number = int(metrics["update/num_steps"])
    assert 1 < number < 50
    assert metrics["update/kl"] > 0.01
    terms = loss_terms(make_policy(), new, batch, CONFIG)
    kl = float(terms.kl.sum() / batch.sequence.mask.sum())
    assert metrics["update/kl"] == pytest.approx(kl)
    # As many steps without a target.
    free, free_state, others = run_ppo(batch, theta, changed(num_epochs=number))
    assert others["update/kl"] <= 0.01
    assert flatten(new).equal(flatten(free))
    assert state["exp_avg"].equal(free_state["exp_avg"])


def test_the_first_step_does_not_depend_on_the_target_kl(
    theta: dict[str, Tensor], batch: TrialBatch
) -> None:
    """At a KL above it, which is a rounding error at the parameters that played."""
    new, _, metrics = run_ppo(batch, new_of(theta), changed(target_kl=1e-9, num_epochs=3))
    assert metrics["update/num_steps"] == 1
    assert metrics["update/kl"] > 1e-9
    expected, _, _ = run_ppo(batch, new_of(theta), changed())
    assert flatten(new).equal(flatten(expected))


def test_the_policy_moves_towards_advantages_and_the_value_towards_targets(
    theta: dict[str, Tensor], batch: TrialBatch
) -> None:
    config = changed(entropy_coefficient=0.0, num_epochs=30)
    sequence, policy = batch.sequence, make_policy()
    new, _, _ = run_ppo(batch, theta, config)
    dist, values = along_trials(policy, theta, sequence)
    new_dist, new_values = along_trials(policy, new, sequence)
    gain = new_dist.log_prob(sequence.actions) - dist.log_prob(sequence.actions)
    assert float((gain * batch.advantages).sum()) > 0
    errors = [real(sequence, (v - batch.targets) ** 2).mean() for v in (values, new_values)]
    assert errors[1] < errors[0]


def test_entropy_is_raised(theta: dict[str, Tensor], batch: TrialBatch) -> None:
    new, _, metrics = run_ppo(batch, theta, changed(entropy_coefficient=100.0))
    assert (new["log_std"] > theta["log_std"]).all()
    dist, _ = along_trials(make_policy(), theta, batch.sequence)
    assert metrics["update/entropy"] == pytest.approx(float(dist.entropy().mean()))


def test_a_gradient_that_is_not_finite_is_refused(
    theta: dict[str, Tensor], batch: TrialBatch
) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        run_ppo(batch._replace(targets=batch.targets * math.nan), theta, changed())


# --- Playing equals the pass over whole trials ---

PLAYED: dict[str, dict[str, Any]] = {
    "gru": {},
    "lstm": {"cell": "lstm"},
    "hypernetwork": {"hypernetwork": True, "hypernetwork_value": True, "latent_size": 3},
    "discrete": {"cell": "lstm", "hypernetwork": True, "latent_size": 3},
    "memoryless": {"memory": False},
}


def wander(tmp_path: Path, name: str, **learner: Any) -> maml_rl.Config:
    """Random walks whose episodes end early."""
    kwargs = {"discrete": True} if name == "discrete" else {}
    return tiny(
        tmp_path / "run",
        env={"name": "helpers.memory_tasks:memory/Wander-v0", **kwargs},
        horizon=helpers.memory_tasks.LENGTH,
        policy={"hidden_sizes": [8], "normalize_observations": True},
        learner={
            "name": "rl2",
            "hidden_size": 8,
            "num_episodes": 3,
            "num_minibatches": 1,
            **PLAYED.get(name, {}),
            **learner,
        },
    )


@pytest.mark.parametrize("name", PLAYED)
def test_playing_step_by_step_equals_the_pass_over_the_trial(name: str, tmp_path: Path) -> None:
    """Actions, and memories before and after the ends of episodes, in float64."""
    with open_training(wander(tmp_path, name)) as training:
        learner = training.agent.learner
        policy = learner.policy
        state = training.iterate().state  # with statistics of observations
        theta = moved_as_trained(state)
        state = state._replace(tensors={**state.tensors, "theta": theta})
        played = PlayedTrials.of(training, state, policy, theta, STREAMS)
        prior = learner.prior(state, 3)
    lengths = torch.stack([stage.mask.sum((1, 2)) for stage in played.stages])
    assert lengths.min() < helpers.memory_tasks.LENGTH
    sequence = trial_sequence(played.stages, prior["previous"], policy.action_head)
    dist, _ = along_trials(policy, theta, sequence)
    inputs = policy.encode(theta, sequence.observations, sequence.previous)
    outputs, _ = policy.unroll(theta, prior["memory"], inputs)
    played.assert_same_pass(policy, dist, outputs, sequence.actions)


def moved_as_trained(state: Any) -> dict[str, Tensor]:
    """Parameters far from the initial ones, so that memory and hypernetwork matter."""
    return moved({name: value.double() for name, value in state.tensors["theta"].items()}, 0.3)


def test_the_next_episode_depends_on_the_one_before(tmp_path: Path) -> None:
    with open_training(wander(tmp_path, "gru")) as training:
        learner, state = training.agent.learner, training.agent.state
        state = state._replace(
            tensors={
                **state.tensors,
                "theta": {k: v.float() for k, v in moved_as_trained(state).items()},
            }
        )
        tasks = sample_tasks(training.collector, STREAMS)
        trial = play_trials(
            learner, state, training.collector, tasks, num_adaptation_steps=1, streams=STREAMS
        )
        fresh = learner.actor(state, learner.prior(state, 3), None)
        later = learner.actor(state, trial.beliefs[1], None)
        observations = np.zeros((3, 2), np.float32)
        first, second = (start(actor).act(observations, 0) for actor in (fresh, later))
    assert (first[0] == first).all()
    assert np.abs(second - first).max(1).min() > 1e-3


def start(actor: RecurrentActor) -> RecurrentActor:
    actor.start(slice(0, 1))
    return actor


def test_a_memory_after_an_episodes_end_stays() -> None:
    """In a round in which other episodes continue."""
    policy = make_policy("discrete")
    theta = make_theta(policy)
    sizes = {"memory": policy.memory_size, "previous": policy.previous_size}
    belief = {name: torch.zeros(2, size, dtype=torch.float64) for name, size in sizes.items()}
    actor = start(RecurrentActor(policy, theta, belief, None, None))
    actor.act(np.ones((2, 3)), 0)
    actor.observe(np.array([1.0, 2.0]), np.array([True, False]))
    before = [part.copy() for part in actor.memory]
    assert before[1][:, -2:].tolist() == [[1, 1], [2, 0]]
    actor.act(np.ones((2, 3)), 1)
    actor.observe(np.array([7.0, 8.0]), np.array([True, False]))
    for old, new in zip(before, actor.memory, strict=True):
        np.testing.assert_array_equal(new[0], old[0])
        assert not np.array_equal(new[1], old[1])


# --- A batch as an iteration makes it ---


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    with open_training(wander(tmp_path, "gru", asymmetric_critic=True)) as training:
        yield training


def recorded_update(training: Training, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    """An iteration, and the arguments of its ``ppo_update``."""
    calls: list[Any] = []

    def recorded(*args: Any) -> Any:
        calls.append(args)
        return ppo_update(*args)

    monkeypatch.setattr(trial_iteration, "ppo_update", recorded)
    return training.iterate(), calls[0]


@pytest.mark.parametrize("across", [True, False])
def test_ppo_learns_from_normalised_advantages_and_targets(
    across: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = wander(tmp_path, "gru", asymmetric_critic=True, credit_across_episodes=across)
    with open_training(config) as training:
        training = training.continued(training.iterate().state)
        iteration, (policy, theta, _, batch, *_) = recorded_update(training, monkeypatch)
    state = training.agent.state
    scale = ValueScale(**state.tensors["value_scale"])
    assert float(scale.weight) == 1
    sequence = batch.sequence
    assert len(batch.log_probs) == 3
    assert batch.tasks.unique().tolist() in ([0], [1], [0, 1])
    # Values in units of the reward, with the scale of the iteration before.
    dist, values = along_trials(policy, theta, sequence, batch.tasks)
    torch.testing.assert_close(batch.log_probs, dist.log_prob(sequence.actions))
    values = scale.denormalize(values)
    advantages = trial_advantages(sequence, values, 0.99, 0.95, across)
    targets = real(sequence, advantages + values)
    new = scale.updated(targets, Ranks())
    torch.testing.assert_close(iteration.state.tensors["value_scale"], new._asdict())
    torch.testing.assert_close(real(sequence, batch.targets), (targets - new.mean) / new.std)
    advantages = real(sequence, advantages).double()
    expected = (advantages - advantages.mean()) / advantages.std(correction=0)
    torch.testing.assert_close(real(sequence, batch.advantages).double(), expected)
    is_padding = sequence.mask == 0
    assert not batch.advantages[is_padding].any()
    explained = 1 - float((advantages**2).mean() / targets.var(correction=0))
    assert iteration.metrics["update/explained_variance"] == pytest.approx(explained, rel=1e-4)


def test_step_sizes_fall_linearly() -> None:
    config = RL2Config(step_size=1.0, final_step_size=0.5, decay_iterations=10)
    assert [config.step_size_at(i, 7) for i in (0, 5, 10, 99)] == [1.0, 0.75, 0.5, 0.5]
    config = RL2Config(step_size=1.0, final_step_size=0.5, decay_env_steps=1000)
    assert [config.step_size_at(7, n) for n in (0, 500, 1000, 1200)] == [1.0, 0.75, 0.5, 0.5]
    assert RL2Config(step_size=1.0).step_size_at(99, 9999) == 1.0


def test_the_step_size_falls_with_the_control_steps_of_training(tmp_path: Path) -> None:
    with open_training(wander(tmp_path, "gru", decay_env_steps=200)) as training:
        iteration = training.iterate()
        num_env_steps = iteration.state.counters["num_env_steps"]
        after = training.continued(iteration.state).iterate()
    assert num_env_steps > 0
    settings = training.agent.config.learner
    sizes = [one.metrics["update/step_size"] for one in (iteration, after)]
    assert sizes == [settings.step_size_at(0, 0), settings.step_size_at(0, num_env_steps)]
    assert sizes[1] < sizes[0]


def test_a_step_size_does_not_fall_by_two_schedules(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is 5 and .* is 9: one of them"):
        wander(tmp_path, "gru", decay_iterations=5, decay_env_steps=9)


def test_actions_do_not_depend_on_the_task_of_an_asymmetric_critic(training: Training) -> None:
    """Its actor gets no task: with the same noise and observations it plays the same."""
    state = training.iterate().state
    learner = training.agent.learner
    assert learner.policy.task_size == 1
    sequence = make_sequence_of(training, state)
    results = [
        evaluated_trials(
            learner.policy, state.tensors["theta"], sequence, torch.full((3, 1), task), block_size=4
        )
        for task in (0.0, 1.0)
    ]
    for first, second in zip(results[0][0], results[1][0], strict=True):
        assert first.equal(second)
    assert not results[0][2].equal(results[1][2])


def make_sequence_of(training: Training, state: Any) -> TrialSequence:
    """Trials that the training's policy plays."""
    learner = training.agent.learner
    tasks = sample_tasks(training.collector, STREAMS)
    trial = play_trials(
        learner, state, training.collector, tasks, num_adaptation_steps=2, streams=STREAMS
    )
    return trial_sequence(
        trial.episodes, learner.prior(state, 3)["previous"], learner.policy.action_head
    )


# --- Failures ---


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loss is NaN."""

    def spoilt(*args: Any) -> Terms:
        return Terms(*(term * math.nan for term in loss_terms(*args)))

    monkeypatch.setattr(ppo, "loss_terms", spoilt)


def test_an_update_that_is_not_finite_leaves_what_it_would_change(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = training.continued(training.iterate().state)
    with monkeypatch.context() as patched:
        spoil(patched)
        after, metrics, failures = training.iterate()
    assert [(row.what, row.task) for row in failures] == [(OUTER_STEP, None)]
    assert "not finite" in failures[0].detail
    assert metrics["update/failed"] == 1
    assert all(math.isfinite(value) for value in metrics.values())
    assert after.counters["failed_outer_steps"] == 1
    assert after.counters["iteration"] == 2
    for group in ("theta", "optimizer", "value_scale"):
        before = training.agent.state.tensors[group]
        assert all(value.equal(before[name]) for name, value in after.tensors[group].items()), group
    fine = training.continued(after).iterate()
    assert fine.state.counters["failed_outer_steps"] == fine.metrics["update/failed"] == 0


def test_targets_that_are_not_finite_do_not_spoil_later_iterations(training: Training) -> None:
    """Of rewards whose sum overflows in float32."""
    env = training.collector.env
    step = env.step

    def overflowing(actions: np.ndarray) -> Any:
        observation, reward, *rest = step(actions)
        return observation, np.where(np.arange(3) == 1, 3e38, reward), *rest

    env.step = overflowing
    after, metrics, _ = training.iterate()
    env.step = step
    assert metrics["update/failed"] == 1
    fine = training.continued(after).iterate()
    assert fine.metrics["update/failed"] == 0
    assert all(
        value.isfinite().all() for group in fine.state.tensors.values() for value in group.values()
    )


@pytest.mark.slow
def test_ten_failed_updates_in_a_row_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    config = dataclasses.replace(wander(tmp_path, "gru"), num_iterations=MAX_FAILED_OUTER_STEPS + 5)
    with pytest.raises(TooManyFailures, match=r"10 outer steps in a row failed.*not finite"):
        maml_rl.train(config)
    assert last(tmp_path / "run").values["iteration"] == MAX_FAILED_OUTER_STEPS - 1


# --- Learning what only a memory can ---

ARMS = {"hidden_size": 32, "step_size": 3e-3}
LEARNING: dict[str, tuple[str, int, dict[str, Any]]] = {
    "gru": ("Arms", 30, ARMS),
    "lstm": ("Arms", 30, {**ARMS, "cell": "lstm"}),
    "hypernetwork": ("Ends", 40, {**ARMS, "hypernetwork": True, "latent_size": 8}),
}


def trained(tmp_path: Path, name: str) -> maml_rl.Agent:
    env, num_iterations, learner = LEARNING[name]
    config = maml_rl.load_config(
        env=f"helpers.memory_tasks:memory/{env}-v0",
        device="cpu",
        num_iterations=num_iterations,
        meta_batch_size=64,
        num_episodes=1,
        policy={"hidden_sizes": [16], "action_scale": 1.0},
        learner={"name": "rl2", **learner},
        logging={"final_video": False, "final_evaluation": False},
        output=str(tmp_path / "run"),
    )
    return maml_rl.load(maml_rl.train(config))


def optimal_return(num_pulls: int) -> float:
    """Largest mean return of the first pulls of :class:`Arms`, from the rule of Bayes.

    A pull tells the same of both arms, so pulling the more probable one is optimal. After n pulls,
    k of which spoke for the better arm, it is pulled if k > n / 2, or by chance if k = n / 2.
    """
    good = helpers.memory_tasks.Arms.GOOD
    total = 0.0
    for n in range(num_pulls):
        chances = [math.comb(n, k) * good**k * (1 - good) ** (n - k) for k in range(n + 1)]
        right = sum(c * (1.0 if 2 * k > n else 0.5 * (2 * k == n)) for k, c in enumerate(chances))
        total += right * good + (1 - right) * (1 - good)
    return total


@pytest.mark.thorough
@pytest.mark.parametrize("name", get_args(Cell))
def test_a_bandit_is_solved_by_memory_and_only_by_memory(name: str, tmp_path: Path) -> None:
    """Ten pulls in two episodes: nearly optimal with memory, chance if it forgets every pull."""
    agent = trained(tmp_path, name)
    pulls = helpers.memory_tasks.PULLS
    result = maml_rl.evaluate(agent, num_tasks=300, num_steps=1, num_episodes=1, seed=3)
    returns = result.returns.mean(axis=(1, 2))
    best = [optimal_return(pulls), optimal_return(2 * pulls) - optimal_return(pulls)]
    chance = pulls / 2
    for value, most in zip(returns, best, strict=True):
        assert chance + 0.75 * (most - chance) < value < most + 0.25
    # The same agent, whose every step is the first of a trial.
    rng = np.random.default_rng(0)
    env = helpers.memory_tasks.Arms()
    env.reset(seed=0)
    rewards = []
    for task in env.sample_tasks(300):
        env.set_task(task)
        action, _ = agent.predict(env.observation(), None, rng=rng)
        rewards.append(env.step(int(action))[1])
    assert np.mean(rewards) == pytest.approx(0.5, abs=0.1)


@pytest.mark.thorough
def test_the_second_episode_goes_where_the_first_found_the_reward(tmp_path: Path) -> None:
    """Straight to the end: 7. The first episode finds it in half of the tasks."""
    agent = trained(tmp_path, "hypernetwork")
    result = maml_rl.evaluate(agent, num_tasks=100, num_steps=1, num_episodes=1, seed=3)
    first, second = result.returns.mean(axis=(1, 2))
    assert 2.5 < first < 4.2
    assert second > 6
