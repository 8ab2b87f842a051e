"""Rewards around a change of the dynamics in mid-episode."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.synthetic import make_episodes, make_policy, make_theta

import maml_rl
from maml_rl.analysis.comparison.response import recovery_text, response
from maml_rl.analysis.comparison.saved_evaluations import read_evaluation, write_evaluation
from maml_rl.analysis.evaluation import evaluate, lasting_shares, mean_rewards
from maml_rl.analysis.recording import adapted_agents, play_episode
from maml_rl.analysis.statistics import mean_of_valid
from maml_rl.cli import main
from maml_rl.policies.parameters import make_stack
from maml_rl.sampling.environments import make_single_env
from maml_rl.settings.config import Config
from maml_rl.settings.families import change_of, trained_range
from maml_rl.system.random_streams import Phase, RandomStreams

HORIZON = 30


def test_windows_around_the_change_of_each_task() -> None:
    rewards = np.zeros((3, 40))
    rewards[0, :20], rewards[0, 20:] = 2.0, 1.0
    rewards[1, :5], rewards[1, 5:] = 4.0, -1.0
    rewards[2] = np.nan  # a failed task
    result = response(rewards, np.array([20, 5, 7]), np.ones(3))
    assert result is not None
    assert result.num_tasks == 2
    assert result.steps.tolist() == list(range(-5, 20))
    assert result.rewards.tolist() == [3.0] * 5 + [0.0] * 20
    assert (result.before, result.after, result.end) == (3.0, 0.0, 0.0)
    assert np.isnan(result.recovery)
    assert result.num_recovered == 0
    assert response(rewards[2:], np.array([7]), np.ones(1)) is None


def test_the_tasks_that_recover_are_counted() -> None:
    back, late, gone, none = np.ones((4, 42))
    back[12:22] = 0.0  # back after 18 control steps
    late[12:37] = 0.0  # back only at the end
    gone[12:] = 0.0
    none[12:] = 0.95  # a small drop
    result = response(np.stack([back, late, gone, none]), np.full(4, 12), np.ones(4))
    assert result is not None
    assert (result.num_recovered, result.num_tasks) == (2, 4)


@pytest.mark.parametrize(
    ("after", "recovery"),
    [
        # The running mean of 10 is lowest after 10 steps; 8 of the next 10 must be at the old level
        ([0.0] * 10 + [1.0] * 20, 18),
        ([0.0] * 15 + [1.0] * 20, 23),
        ([0.5] * 5 + [0.0] * 10 + [1.0] * 20, 23),
        ([-1.0] * 10 + [0.0] * 20, np.nan),
        ([-1.0] * 10 + [0.75] * 20, 20),
        ([1.0] * 30, 0),
        ([2.0] * 30, 0),
        ([0.0] * 9, np.nan),
    ],
)
def test_control_steps_to_recover(after: list[float], recovery: float) -> None:
    rewards = np.array([[1.0] * 12 + after])
    result = response(rewards, np.array([12]), np.ones(1))
    assert result is not None
    np.testing.assert_equal(result.recovery, recovery)


def test_what_has_ended_has_not_recovered() -> None:
    """A robot that has fallen has the reward 0, which is more than its negative rewards before."""
    fallen, walks, falls_at_once = -np.ones((3, 42))
    fallen[12:22], fallen[22:] = -2.0, 0.0
    walks[12:22] = -2.0
    falls_at_once[:] = 0.0
    steps = np.full(3, 12)
    rewards = np.stack([fallen, walks, falls_at_once])
    result = response(rewards, steps, np.array([0.5, 0.6, 0.0]))
    assert result is not None
    assert (result.num_recovered, result.num_tasks) == (1, 3)
    assert recovery_text(result) == "not in the episode"
    # If they all lasted, they would have recovered.
    result = response(rewards, steps, np.ones(3))
    assert result is not None
    assert result.num_recovered == 3
    assert recovery_text(result) != "not in the episode"


def test_the_share_of_episodes_that_last_until_the_horizon() -> None:
    policy = make_policy()
    stack = make_stack(make_theta(policy), 4)
    episodes = make_episodes(policy, stack, seed=0, num_episodes=3, horizon=5)
    lengths = torch.tensor([[5, 2, 5], [5, 5, 1], [1, 2, 3], [5, 4, 4]])
    episodes = dataclasses.replace(
        episodes,
        mask=(torch.arange(5) < lengths[..., None]).to(episodes.mask),
        cause=torch.zeros_like(episodes.cause),
    )
    (shares,) = lasting_shares([episodes], 2)
    assert shares.tolist() == pytest.approx([4 / 6, 1 / 6])
    # Discarded episodes do not count.
    without = episodes.without(torch.tensor([False, True, False, False]))
    (shares,) = lasting_shares([without], 2)
    assert shares.tolist() == pytest.approx([2 / 3, 1 / 6])


def test_mean_rewards_exclude_discarded_episodes_and_count_ended_ones_as_zero() -> None:
    policy = make_policy()
    stack = make_stack(make_theta(policy), 4)
    episodes = make_episodes(policy, stack, seed=0, num_episodes=3, horizon=5)
    assert episodes.discarded.any()
    # Two trials of each of two tasks
    (rewards,) = mean_rewards([episodes], 2)
    assert rewards.shape == (2, 5)
    returns = mean_of_valid(episodes.returns.reshape(2, 6).numpy(), 1)
    np.testing.assert_allclose(rewards.sum(-1), returns, rtol=1e-12)
    (rewards,) = mean_rewards([episodes.without(torch.tensor([True, True, False, False]))], 2)
    assert np.isnan(rewards).all(-1).tolist() == [True, False]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"changed/body_mass": 2.0}, (0, 0)),
        ({"changed/body_mass": 2.0, "change_step": 5.0, "change_episode": 3.0}, (3, 5)),
        ({"changed/body_mass": 1.0, "change_step": 5.0}, None),
        ({"body_mass": 2.0, "changed/body_mass": 2.0, "change_step": 5.0}, None),
        ({"body_mass": 2.0, "changed/body_mass": 1.0, "change_step": 5.0}, (0, 5)),
        ({"body_mass": 2.0}, None),
        ({"push_velocity": -1.0, "change_step": 5.0}, (0, 5)),
        ({"push_velocity": 0.0, "change_step": 5.0}, None),
    ],
)
def test_when_a_task_changes(task: dict[str, float], expected: tuple[int, int] | None) -> None:
    assert change_of("HalfCheetahVel", {"goal_velocity": 1.0, **task}) == expected


def test_only_families_have_changes() -> None:
    assert change_of("Pendulum-v1", {"change_step": 5, "changed/g": 3}) is None


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (1.0, [0.0] * 10 + [1.0] * 20, "18"),
        (1.0, [0.0] * 30, "not in the episode"),
        (1.0, [0.95] * 30, "no drop"),
        (1.0, [0.8] * 30, "not in the episode"),
        (-1.0, [-1.05] * 30, "no drop"),
        (-1.0, [-2.0] * 30, "not in the episode"),
        (1.0, [2.0] * 10 + [0.0] * 20, "drops later"),  # at first, the reward rose
        (1.0, [1.0] * 20 + [0.89] * 10, "drops later"),
        (1.0, [1.0] * 20 + [0.91] * 10, "no drop"),
    ],
)
def test_a_drop_is_reported_if_it_is_clear(before: float, after: list[float], text: str) -> None:
    result = response(np.array([[before] * 12 + after]), np.array([12]), np.ones(1))
    assert result is not None
    assert recovery_text(result) == text


def _config(tmp_path: Path, dynamics: dict[str, Any]) -> Config:
    return maml_rl.load_config(
        env={"name": "HalfCheetahVel", "dynamics": dynamics},
        device="cpu",
        num_iterations=1,
        meta_batch_size=2,
        num_episodes=2,
        horizon=HORIZON,
        policy={"hidden_sizes": [4]},
        logging={"final_evaluation": False, "final_video": False},
        output=str(tmp_path / "run"),
    )


def test_choices_with_gaps_are_not_a_range(tmp_path: Path) -> None:
    for choices, expected in (([0, 1, 2], (0, 2)), ([0, 2], None), ([1], (1, 1))):
        config = _config(tmp_path, {"disabled_joint": choices})
        assert trained_range(config, "disabled_joint") == expected


def test_changes_at_different_times_with_a_short_common_part_have_no_time_to_recover() -> None:
    rewards = np.ones((20, 100))
    rewards[:19, 5:20] = 0.0
    steps = np.array([5] * 19 + [92])
    result = response(rewards, steps, np.ones(20))
    assert result is not None
    assert (result.num_recovered, recovery_text(result)) == (20, "–")


def test_ranges_in_training_of_a_change(tmp_path: Path) -> None:
    without = _config(tmp_path, {"body_mass": [0.5, 2.0]})
    assert trained_range(without, "changed/body_mass") == (0.5, 2.0)
    assert trained_range(without, "changed/slope") == (0.0, 0.0)
    assert trained_range(without, "change_step") is None
    change = {"changed/body_mass": [2.0, 3.0], "change_step": {"low": 5, "high": 9}}
    changing = _config(tmp_path, change)
    assert trained_range(changing, "changed/body_mass") == (2.0, 3.0)
    assert trained_range(changing, "change_step") == (5, 9)
    assert trained_range(changing, "change_episode") == (0, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return maml_rl.train(_config(tmp_path_factory.mktemp("changes"), {}))


TASKS: list[dict[str, float]] = [
    {"goal_velocity": 1.0, "changed/body_mass": 2.0, "change_step": 12},
    {"goal_velocity": 0.5, "changed/gravity": 3.0, "change_step": 14, "change_episode": 1},
    {"goal_velocity": 0.5, "changed/gravity": 3.0, "change_step": HORIZON},
    {"goal_velocity": 0.5},
]


@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [False, True])
def test_rewards_of_an_evaluation(run: Path, deterministic: bool) -> None:
    agent = maml_rl.load(run)
    sizes: dict[str, Any] = {"num_episodes": 3, "num_steps": 1, "deterministic": deterministic}
    result = evaluate(agent, tasks=TASKS, **sizes)
    assert result.changes == {0: {0: 12}, 1: {1: 14}}
    assert result.rewards is not None
    assert result.rewards.shape == (2, 4, HORIZON)
    np.testing.assert_allclose(result.rewards.sum(-1), result.task_returns, rtol=1e-4)
    # The same tasks without changes: the same rewards until then.
    plain = [{"goal_velocity": task["goal_velocity"]} for task in TASKS[:3]]
    never = {**plain[0], "changed/gravity": 3.0, "change_step": 1, "change_episode": 1}
    expected = evaluate(agent, tasks=[*plain, never], **sizes).rewards
    assert expected is not None
    differs = result.rewards[:, :3] != expected[:, :3]
    assert differs[0].any(-1).tolist() == [True, False, False]
    assert differs[0, 0].argmax() == 12
    if deterministic:  # the update of the second task is the same, and so are its actions
        assert differs[1].any(-1).tolist() == [True, True, True]
    assert evaluate(agent, tasks=TASKS[2:], num_episodes=1, num_steps=0).rewards is None


@pytest.mark.slow
def test_rewards_are_kept_by_an_interrupted_evaluation(run: Path, tmp_path: Path) -> None:
    agent = maml_rl.load(run)
    result = evaluate(agent, tasks=TASKS[:2], num_episodes=1, num_steps=1)
    write_evaluation(tmp_path / "whole.json", result)
    again = read_evaluation(tmp_path / "whole.json", agent)
    np.testing.assert_array_equal(again.rewards, result.rewards)
    np.testing.assert_array_equal(again.lasting, result.lasting)
    assert again.changes == result.changes


def _evaluated(run: Path, output: Path, dynamics: str) -> dict[str, Any]:
    small = ["--num_tasks=2", "--num_episodes=2", "--num_steps=1", "--device=cpu"]
    argv = ["evaluate", str(run), "--dynamics", dynamics, *small, f"--output={output}"]
    assert main(argv) == 0
    return json.loads((output / "results.json").read_text())


@pytest.mark.slow
def test_the_command_reports_the_response(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = "change_episode=1,change_step=12,changed/disabled_actuator=2"
    (result,) = _evaluated(run, tmp_path, change)["results"]
    (values,) = result["changes"]
    assert (values["step"], values["num_tasks"]) == (1, 2)
    assert values["control_steps"] == list(range(-12, HORIZON - 12))
    assert np.mean(values["rewards"][2:12]) == pytest.approx(values["reward_before"])
    assert np.mean(values["rewards"][12:22]) == pytest.approx(values["reward_after"])
    assert np.mean(values["rewards"][-10:]) == pytest.approx(values["reward_at_end"])
    assert sum(values["rewards"]) == pytest.approx(result["return"][1], rel=1e-4)
    # One run: the interval is over its two tasks.
    assert values["interval_over"] == "tasks"
    low, high = values["intervals_95"]["reward_after"]
    assert low < values["reward_after"] < high
    assert low + high == pytest.approx(2 * values["reward_after"])
    assert 0 <= values["num_recovered_tasks"] <= 2
    out = capsys.readouterr().out
    assert "control steps to recover" in out
    assert f"{values['num_recovered_tasks']} of 2" in out
    report = (tmp_path / "report.html").read_text()
    assert "Change of the dynamics in mid-episode" in report
    assert (tmp_path / "change.png").exists()
    # A later evaluation without a change
    (result,) = _evaluated(run, tmp_path, "slope=0.1")["results"]
    assert result["changes"] == []
    assert not (tmp_path / "change.png").exists()
    assert "mid-episode" not in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_time_and_values_of_a_change_are_swept(run: Path, tmp_path: Path) -> None:
    results = _evaluated(run, tmp_path, "change_step=10:20:2,changed/gravity=3:9.81:2")["results"]
    _, *alone = results[:3]  # not the time alone: nothing would change then
    assert [result["swept"] for result in alone] == [
        {"changed/gravity": 3.0},
        {"changed/gravity": 9.81},
    ]
    grid = results[3:]
    assert [result["swept"] for result in grid] == [
        {"change_step": step, "changed/gravity": gravity}
        for step in (10.0, 20.0)
        for gravity in (3.0, 9.81)
    ]
    assert [len(result["changes"]) for result in grid] == [1, 0, 1, 0]
    assert (tmp_path / "grid_change_step_changed.gravity.png").exists()
    swept = _evaluated(run, tmp_path, "changed/gravity=3,change_step=10:20:2")["results"][1:]
    assert [result["swept"] for result in swept] == [{"change_step": 10.0}, {"change_step": 20.0}]
    assert [result["return"] for result in swept] == [grid[0]["return"], grid[2]["return"]]


@pytest.mark.parametrize(
    ("dynamics", "message"),
    [
        ("change_step=10:20:2", "change_step without a changed value"),
        ("change_step=10:20:2,change_episode=0:1:2", "without a changed value"),
        ("change_step=5", "change_step without a changed value"),
        ("changed/gravity=3,change_step=10:15:3", "integer"),
        ("changed/gravty=3", "Did you mean 'changed/gravity'"),
    ],
)
@pytest.mark.slow
def test_a_change_that_cannot_be_set_is_refused(
    run: Path, dynamics: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--dynamics", dynamics, "--device=cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (run / "evaluation").exists()


@pytest.mark.slow
def test_videos_show_the_change_in_its_episode(run: Path) -> None:
    agent = maml_rl.load(run)
    task = {"goal_velocity": 1.0, "change_episode": 1, "change_step": 5, "changed/disabled_limb": 0}
    env = make_single_env(agent.config.env, HORIZON)
    env.assigned_task = task
    colours = env.unwrapped.model.geom_rgba.copy()
    streams = RandomStreams(0, Phase.RECORDING)
    for k, adapted in enumerate(adapted_agents(agent, task, 2, 2, seed=0)):
        for t, _ in enumerate(play_episode(env, adapted, True, streams)):
            is_red = bool((env.unwrapped.model.geom_rgba != colours).any())
            assert is_red == (k == 2 or (k == 1 and t >= 5))
    env.close()
