"""The axis convention, weights, and parts of episodes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.synthetic import make_episodes, make_policy, make_theta

from maml_rl.learners.maml.objective import MetaBatch
from maml_rl.policies.parameters import make_stack
from maml_rl.sampling.episodes import Episodes

T, E, H = 3, 4, 5


def episodes_of(discrete: bool = False) -> Episodes:
    policy = make_policy(discrete)
    return make_episodes(
        policy, make_stack(make_theta(policy), T), seed=0, num_episodes=E, horizon=H
    )


def test_step_weights_average_over_real_steps():
    episodes = episodes_of()
    weights = episodes.step_weights
    assert weights.shape == (T, E * H)
    for i in range(T):
        real = episodes.mask[i] > 0
        assert int(episodes.num_steps[i]) == int(real.sum())
        expected = episodes.rewards[i][real].mean()
        torch.testing.assert_close(
            (weights[i] * episodes.flat(episodes.rewards)[i]).sum(), expected
        )
    assert len(set(episodes.num_steps.tolist())) > 1


def test_a_task_without_real_steps_has_zero_weights():
    episodes = episodes_of()
    mask = episodes.mask.clone()
    mask[1] = 0
    weights = dataclasses.replace(episodes, mask=mask).step_weights
    assert torch.equal(weights[1], torch.zeros(E * H, dtype=torch.float64))
    torch.testing.assert_close(weights[0].sum(), torch.ones((), dtype=torch.float64))


def test_returns_add_real_rewards_and_are_nan_for_discarded_episodes():
    episodes = episodes_of()
    assert episodes.returns.shape == (T, E)
    assert torch.equal(episodes.returns.isnan(), episodes.discarded)
    for i in range(T):
        for e in range(E):
            if not episodes.discarded[i, e]:
                length = int(episodes.mask[i, e].sum())
                assert float(episodes.returns[i, e]) == pytest.approx(
                    float(episodes.rewards[i, e, :length].sum())
                )


def test_flat_keeps_tasks_apart_and_time_fastest():
    episodes = episodes_of()
    flat = episodes.flat(episodes.observations)
    assert flat.shape == (T, E * H, 3)
    for i, e, t in ((0, 0, 1), (2, 3, 4), (1, 2, 0)):
        assert torch.equal(flat[i, e * H + t], episodes.observations[i, e, t])


@pytest.mark.parametrize("discrete", [False, True])
def test_chosen_takes_the_same_part_of_every_field(discrete):
    episodes = episodes_of(discrete)
    part = episodes.chosen(slice(1, 3))
    assert part.num_tasks == 2
    for field in dataclasses.fields(Episodes):
        whole, taken = getattr(episodes, field.name), getattr(part, field.name)
        pairs = zip(whole, taken, strict=True) if isinstance(whole, tuple) else [(whole, taken)]
        for ours, theirs in pairs:
            assert torch.equal(ours[1:3], theirs)
            assert theirs.data_ptr() == ours[1:3].data_ptr()


def test_chosen_takes_the_credit_of_the_same_tasks():
    batch = MetaBatch((), episodes_of(), (), torch.arange(float(T)))
    assert batch.chosen(slice(1, 3)).credit.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3, 10])
def test_every_takes_the_same_steps_of_every_field(discrete, stride):
    episodes = episodes_of(discrete)
    thin = episodes.every(stride)
    steps = [
        [t for t in range(H + stride) if t % stride == e % stride][: -(-H // stride)]
        for e in range(E)
    ]
    for e in range(E):
        for k, t in enumerate(steps[e]):
            inside = t < H
            assert torch.equal(
                thin.mask[:, e, k], episodes.mask[:, e, t] if inside else torch.zeros(T).double()
            )
            for name in (
                ("observations", "actions", "rewards", "log_probs", "advantages") if inside else ()
            ):
                assert torch.equal(getattr(thin, name)[:, e, k], getattr(episodes, name)[:, e, t])
            for whole, taken in zip(episodes.distribution, thin.distribution, strict=True):
                if whole.shape[1] == 1:  # shared by all states
                    assert torch.equal(taken, whole)
                elif inside:
                    assert torch.equal(taken[:, e * len(steps[e]) + k], whole[:, e * H + t])
    assert torch.equal(thin.cause, episodes.cause)


def test_every_step_is_kept_in_some_episode():
    """Strides beyond the horizon too: short episodes must not be judged by their start alone."""
    episodes = episodes_of(False)
    marked = dataclasses.replace(
        episodes,
        rewards=torch.arange(H, dtype=torch.float64).expand(T, E, H).contiguous(),
        mask=torch.ones_like(episodes.mask),
    )
    thin = marked.every(2)
    assert set(thin.rewards[thin.mask > 0].tolist()) == set(range(H))


def test_first_steps_can_be_kept_and_the_others_count_for_those_left_out():
    horizon, stride = 6, 3
    policy = make_policy()
    stack = make_stack(make_theta(policy), 1)
    episodes = make_episodes(
        policy, stack, seed=0, num_episodes=stride, horizon=horizon, discard=False
    )
    t = torch.arange(horizon, dtype=torch.float64).expand(1, stride, horizon)
    full = dataclasses.replace(episodes, mask=torch.ones_like(t), rewards=t)
    thin = full.every(stride, with_first=True)
    kept = [
        [(int(step), int(weight)) for step, weight in zip(*rows, strict=True) if weight > 0]
        for rows in zip(thin.rewards[0], thin.mask[0], strict=True)
    ]
    assert kept == [[(0, 1), (3, 3)], [(0, 1), (1, 3), (4, 3)], [(0, 1), (2, 3), (5, 3)]]
    assert thin.num_steps.equal(full.num_steps)
    assert full.every(1, with_first=True) is full


def test_mean_length_is_that_of_valid_episodes():
    episodes = episodes_of()
    for i in range(T):
        lengths = [int(episodes.mask[i, e].sum()) for e in range(E) if not episodes.discarded[i, e]]
        assert float(episodes.mean_length[i]) == pytest.approx(sum(lengths) / len(lengths))
