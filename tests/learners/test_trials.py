"""Trials: each stage has its own belief, random numbers and advantages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import gymnasium as gym
import pytest
import torch
from helpers.runs import tiny

from maml_rl.learners.base import Belief
from maml_rl.learners.maml.learner import MAML
from maml_rl.learners.trials import Trial, play_most_probable, play_trials, sample_tasks
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.episodes import Episodes
from maml_rl.sampling.failures import BASELINE, INNER_STEP, Failure
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import Training, open_training

STREAMS = RandomStreams(0, Phase.TRAINING, 0)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    config = tiny(tmp_path_factory.mktemp("trials") / "run", meta_batch_size=3, num_episodes=4)
    with open_training(config) as training:
        yield training


def play(training: Training, num_adaptation_steps: int, **options: object) -> Trial:
    return play_trials(
        training.agent.learner,
        training.agent.state,
        training.collector,
        sample_tasks(training.collector, STREAMS),
        num_adaptation_steps=num_adaptation_steps,
        streams=STREAMS,
        **options,
    )


def collected(training: Training, belief: Belief, stage: int, *, noisy: bool = True) -> Episodes:
    """Episodes of one stage with advantages, played by hand."""
    agent, collector, _ = training
    noise = collector.noise(agent.learner.draw_noise, STREAMS, stage) if noisy else None
    actor = agent.learner.actor(agent.state, belief, noise)
    episodes = collector.collect(actor, STREAMS, stage)
    return agent.learner.with_advantages(episodes)


def assert_same_episodes(episodes: Episodes, expected: Episodes) -> None:
    for name in ("observations", "actions", "rewards", "advantages"):
        assert torch.equal(getattr(episodes, name), getattr(expected, name)), name


def test_each_stage_is_played_with_its_own_belief_and_random_numbers(training: Training):
    trial = play(training, 2)
    assert len(trial.episodes) == len(trial.beliefs) == 3
    for stage, (belief, episodes) in enumerate(zip(trial.beliefs, trial.episodes, strict=True)):
        assert_same_episodes(episodes, collected(training, belief, stage))
        assert episodes.advantages.abs().sum() > 0
    for name, value in training.agent.state.tensors["theta"].items():
        assert torch.equal(trial.beliefs[0][name], value.expand(3, *value.shape)), name
    assert not torch.equal(trial.beliefs[0]["weight_0"], trial.beliefs[2]["weight_0"])


@pytest.mark.parametrize("deterministic", [False, True])
def test_all_stages_play_sampled_or_most_probable_actions(training: Training, deterministic: bool):
    trial = play(training, 1, deterministic=deterministic)
    for stage, belief in enumerate(trial.beliefs):
        expected = collected(training, belief, stage, noisy=not deterministic)
        assert_same_episodes(trial.episodes[stage], expected)


def test_a_trial_without_a_stage_has_no_failures(training: Training):
    trial = play(training, 0, final_episodes=False)
    assert trial.episodes == []
    assert trial.failures.rows([{}] * 3) == []
    trial.failures.refuse_failed_tasks([{}] * 3)


def fail_task_1_in_stage_1(monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    """Make its advantages or its update not finite."""
    advantages_of, update_of = MAML.with_advantages, MAML.update
    calls = itertools.count()

    def with_advantages(self: MAML, episodes: Episodes) -> Episodes:
        episodes = advantages_of(self, episodes)
        if next(calls) == 1:
            episodes.advantages[1, 0, 0] = torch.inf
        return episodes

    def update(self: MAML, state, belief: Belief, episodes: Episodes, stage: int) -> Belief:
        updated = update_of(self, state, belief, episodes, stage)
        if stage == 1:
            updated["bias_0"][1, 0] = torch.nan
        return updated

    if cause == BASELINE:
        monkeypatch.setattr(MAML, "with_advantages", with_advantages)
    else:
        monkeypatch.setattr(MAML, "update", update)


@pytest.mark.parametrize("cause", [BASELINE, INNER_STEP])
def test_a_failed_task_keeps_its_belief_and_the_others_do_not_notice(
    training: Training, monkeypatch: pytest.MonkeyPatch, cause: str
):
    whole = play(training, 3)
    fail_task_1_in_stage_1(monkeypatch, cause)
    trial = play(training, 3)
    assert trial.failures.rows([{"i": i} for i in range(3)]) == [Failure(1, cause, 0, {"i": 1})]
    others = torch.tensor([0, 2])
    for stage, (belief, expected) in enumerate(zip(trial.beliefs, whole.beliefs, strict=True)):
        # Stage 1 is played before its update fails, and discarded if its advantages do.
        is_discarded = stage > (0 if cause == BASELINE else 1)
        assert trial.episodes[stage].discarded[1].all() == is_discarded
        for name, value in belief.items():
            assert torch.equal(value[others], expected[name][others]), name
            assert torch.equal(value[1], whole.beliefs[min(stage, 1)][name][1]), name


CHANGE_STEP = 3


@pytest.fixture(scope="module", params=["maml", "rl2"])
def changing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Training]:
    """Training on a robot whose dynamics change in step 3 of the second episode of a task."""
    is_rl2 = request.param == "rl2"
    change = {"change_episode": 1, "change_step": CHANGE_STEP, "changed/actuator_gear": 0.1}
    config = tiny(
        tmp_path_factory.mktemp("changing") / "run",
        env={"name": "HalfCheetahVel", "dynamics": change},
        learner={"name": request.param} | ({"num_minibatches": 1} if is_rl2 else {}),
        num_episodes=1 if is_rl2 else 2,
    )
    with open_training(config) as training:
        yield training


def test_the_dynamics_change_in_their_episode_of_the_trial(changing: Training) -> None:
    tasks = sample_tasks(changing.collector, STREAMS)
    trial = play(changing, 2)
    unchanged = [{"goal_velocity": task["goal_velocity"]} for task in tasks]
    expected = play_trials(
        changing.agent.learner,
        changing.agent.state,
        changing.collector,
        unchanged,
        num_adaptation_steps=2,
        streams=STREAMS,
    )
    first, second, third = (episodes.rewards for episodes in trial.episodes)
    plain = [episodes.rewards for episodes in expected.episodes]
    assert torch.equal(first, plain[0])
    assert torch.equal(second[..., :CHANGE_STEP], plain[1][..., :CHANGE_STEP])
    assert (second[..., CHANGE_STEP:] != plain[1][..., CHANGE_STEP:]).all()
    assert (third != plain[2]).all()


def test_a_trial_that_is_played_again_has_the_same_changes(changing: Training) -> None:
    """Mean actions of the same beliefs, and stages after the first in a new call."""
    agent, collector, _ = changing
    trial = play(changing, 2, deterministic=True)
    again = play_most_probable(agent.learner, agent.state, collector, trial, STREAMS)
    for episodes, expected in zip(again.episodes, trial.episodes, strict=True):
        assert torch.equal(episodes.rewards, expected.rewards)
    last = play(changing, 1, deterministic=True, first_stage=1, belief=trial.beliefs[1])
    for episodes, expected in zip(last.episodes, trial.episodes[1:], strict=True):
        assert torch.equal(episodes.rewards, expected.rewards)


@pytest.mark.slow
@pytest.mark.parametrize("changing", ["maml"], indirect=True)
def test_all_rounds_of_a_stage_are_one_episode_of_the_task(changing: Training) -> None:
    """Also on an environment that the user has made."""
    agent = changing.agent
    task = sample_tasks(changing.collector, STREAMS)[0]
    own = gym.make("maml_rl/HalfCheetahVel-v0", max_episode_steps=agent.config.horizon)
    rewards = []
    for given, num_envs in ((None, 2), (None, 1), (own, 1)):
        with as_task_vector_env(given, agent.config.env, num_envs, agent.config.horizon) as env:
            trial = play_trials(
                agent.learner,
                agent.state,
                agent.collector(env, num_tasks=1, num_episodes=2),
                [task],
                num_adaptation_steps=1,
                streams=STREAMS,
            )
        rewards.append(torch.cat([episodes.rewards for episodes in trial.episodes]))
    for in_rounds in rewards[1:]:
        torch.testing.assert_close(in_rounds, rewards[0])
