"""What every learner must do: built-in ones with each outer step, and one of the user's own."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.drawn import drawn_task
from helpers.runs import assert_equal_runs, tiny
from helpers.scripts import ROOT

import maml_rl
from maml_rl.agents.learner_checkpoint import restored
from maml_rl.errors import UserError
from maml_rl.learners.base import Belief, Learner, LearnerState
from maml_rl.learners.maml.outer import OUTER
from maml_rl.learners.trials import (
    Trial,
    contained_update,
    play_most_probable,
    play_trials,
    sample_tasks,
    usable_episodes,
)
from maml_rl.runs.checkpoint import save_checkpoint
from maml_rl.runs.checkpoint_files import load_checkpoint
from maml_rl.sampling.failures import FailedTasks
from maml_rl.settings.learners import LEARNER_CONFIGS
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import Training, open_training

STREAMS = RandomStreams(0, Phase.TRAINING, 0)
NUM_TASKS = 3
SMALL = {"hidden_sizes": [8]}
PEARL = {
    "latent_size": 3,
    "hidden_sizes": [8],
    "encoder_hidden_sizes": [8],
    "num_training_tasks": 4,
    "num_updates": 2,
    "tasks_per_update": 3,
    "batch_size": 6,
    "context_size": 4,
}

LEARNERS: dict[str, dict[str, Any]] = {
    "trpo": {},
    "promp": {"outer": "promp"},
    "ppo": {"outer": "ppo"},
    "adam": {"outer": "adam"},
    "reptile": {"outer": "reptile", "inner": {"num_steps": 2}},
    "normalized": {"policy": {**SMALL, "normalize_observations": True}},
    "head": {"inner": {"adapts": "head", "test_step_sizes": [0.3, 0.1]}},
    "context": {"policy": {**SMALL, "context_size": 2}, "inner": {"adapts": "context"}},
    "latent": {"policy": {**SMALL, "latent_size": 2, "normalize_observations": True}},
    "learned_step_size": {"inner": {"learned_step_size": "per_parameter"}},
    "network": {"policy": {"network": "helpers.networks:Perceptron"}},
    "joint": {"learner": "joint"},
    "rl2": {"learner": {"name": "rl2", "hidden_size": 8, "num_minibatches": 1}},
    "rl2_lstm": {
        "learner": {"name": "rl2", "hidden_size": 8, "cell": "lstm", "num_minibatches": 1},
        "policy": {**SMALL, "normalize_observations": True},
    },
    "rl2_hypernetwork": {
        "learner": {
            "name": "rl2",
            "hidden_size": 8,
            "hypernetwork": True,
            "hypernetwork_value": True,
            "latent_size": 3,
            "num_minibatches": 1,
            "asymmetric_critic": True,
        }
    },
    "pearl": {"learner": {"name": "pearl", **PEARL}},
    "pearl_gru": {
        "learner": {
            "name": "pearl",
            **PEARL,
            "encoder": "gru",
            "next_observation_in_context": True,
            "num_prior_episodes": 2,
            "num_training_tasks": 0,
        },
        "policy": {**SMALL, "normalize_observations": True},
    },
    "rma": {
        "learner": {
            "name": "rma",
            "teacher_iterations": 1,
            "latent_size": 3,
            "encoder_hidden_sizes": [6],
            "hidden_size": 8,
            "num_minibatches": 1,
        },
    },
    "sysid": {
        "learner": {
            "name": "sysid",
            "teacher_iterations": 1,
            "window": 4,
            "estimator_hidden_sizes": [6],
            "num_minibatches": 1,
        },
        "policy": {**SMALL, "normalize_observations": True},
    },
    "own": {"learner": "helpers.bandit:Bandit", "policy": {}},
}


def test_every_learner_and_outer_step_is_tested() -> None:
    """Add a row of ``LEARNERS`` for a new one."""
    configs = [tiny(Path("run"), **settings) for settings in LEARNERS.values()]
    assert {config.learner.name for config in configs} >= LEARNER_CONFIGS.keys()
    assert {config.outer.name for config in configs} >= OUTER.keys()


@pytest.fixture(scope="module", params=LEARNERS)
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return LEARNERS[request.param]


@pytest.fixture(scope="module")
def training(
    settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Training]:
    with open_training(tiny(tmp_path_factory.mktemp("run") / "run", **settings)) as training:
        yield training


@pytest.fixture(scope="module")
def learner(training: Training) -> Learner:
    return training.agent.learner


@pytest.fixture(scope="module")
def state(training: Training) -> LearnerState:
    """The state after an iteration, so that nothing in it is at its initial value."""
    return training.iterate().state


def play(
    training: Training, state: LearnerState, num_adaptation_steps: int = 1, **options: Any
) -> Trial:
    return play_trials(
        training.agent.learner,
        state,
        training.collector,
        sample_tasks(training.collector, STREAMS),
        num_adaptation_steps=num_adaptation_steps,
        streams=STREAMS,
        **options,
    )


def assert_same_tensors(first: Any, second: Any) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, equal_nan=True)


def assert_same_states(first: LearnerState, second: LearnerState) -> None:
    assert first.counters == second.counters
    assert list(first.tensors) == list(second.tensors)
    for group, tensors in first.tensors.items():
        assert_same_tensors(tensors, second.tensors[group])


def shapes(belief: Belief) -> dict[str, tuple[Any, ...]]:
    return {name: (*value.shape, value.dtype) for name, value in belief.items()}


def test_a_run_starts_from_a_state_that_passes_the_check(learner: Learner) -> None:
    initial = learner.initial_state()
    learner.check(initial, Path("run"))
    assert initial.counters["iteration"] == initial.counters["num_env_steps"] == 0
    assert set(initial.tensors) & set(learner.ACTING)


def test_the_check_refuses_damaged_states(learner: Learner, state: LearnerState) -> None:
    learner.check(state, Path("run"))
    group = next(name for name in learner.ACTING if state.tensors[name])
    for name, value in state.tensors[group].items():
        nan = torch.full_like(value, math.nan)
        others = {n: v for n, v in state.tensors[group].items() if n != name}
        damaged = {
            "nan": {**others, name: nan},
            "shape": {**others, name: value[None]},
            "dtype": {**others, name: value.half()},
            "missing": others,
            "unknown": {**others, name: value, "unknown": value},
        }
        for tensors in damaged.values():
            with pytest.raises(UserError, match=r"some/run"):
                learner.check(
                    state._replace(tensors={**state.tensors, group: tensors}), Path("some/run")
                )


def test_the_prior_is_the_same_for_every_task(learner: Learner, state: LearnerState) -> None:
    prior = learner.prior(state, NUM_TASKS)
    assert shapes(prior) == shapes(learner.prior(learner.initial_state(), NUM_TASKS))
    for value in prior.values():
        assert len(value) == NUM_TASKS
        assert value.equal(value[:1].expand_as(value))


def test_an_update_keeps_names_and_shapes_and_changes_something(
    training: Training, state: LearnerState
) -> None:
    trial = play(training, state, num_adaptation_steps=2)
    assert len(trial.episodes) == len(trial.beliefs) == 3
    assert shapes(trial.beliefs[0]) == shapes(trial.beliefs[1]) == shapes(trial.beliefs[2])
    for before, after in zip(trial.beliefs, trial.beliefs[1:], strict=False):
        assert any(not before[name].equal(after[name]) for name in before)


def test_the_belief_about_a_task_depends_on_its_own_episodes_only(
    training: Training, learner: Learner, state: LearnerState
) -> None:
    trial = play(training, state, final_episodes=False)
    changed = trial.episodes[0].rewards.clone()
    changed[1] = changed[1].flip(-1) + torch.arange(changed.shape[-1])
    episodes = learner.with_advantages(dataclasses.replace(trial.episodes[0], rewards=changed))
    updated = learner.update(state, trial.beliefs[0], episodes, 0)
    others = [0, 2]
    for name, value in updated.items():
        assert value[others].equal(trial.beliefs[1][name][others]), name
    assert any(not value[1].equal(trial.beliefs[1][name][1]) for name, value in updated.items())


def test_trials_depend_on_the_streams_only(training: Training, state: LearnerState) -> None:
    first, second = play(training, state), play(training, state)
    assert_same_tensors(first.beliefs[-1], second.beliefs[-1])
    for one, other in zip(first.episodes, second.episodes, strict=True):
        assert one.actions.equal(other.actions)


def test_a_trial_continues_another(training: Training, state: LearnerState) -> None:
    whole = play(training, state, num_adaptation_steps=2)
    first = play(training, state, num_adaptation_steps=1, final_episodes=False)
    assert len(first.episodes) == 1
    second = play(training, state, belief=first.beliefs[-1], first_stage=1)
    assert_same_tensors(second.beliefs[-1], whole.beliefs[-1])
    assert second.episodes[-1].rewards.equal(whole.episodes[-1].rewards)


def test_deterministic_stages_have_no_noise(training: Training, state: LearnerState) -> None:
    trial = play(training, state, deterministic=True)
    again = play_most_probable(training.agent.learner, state, training.collector, trial, STREAMS)
    for episodes, expected in zip(again.episodes, trial.episodes, strict=True):
        assert episodes.actions.equal(expected.actions)
        assert episodes.returns.equal(expected.returns)
    assert not play(training, state).episodes[0].actions.equal(trial.episodes[0].actions)


def test_a_failed_task_keeps_its_belief(
    training: Training, learner: Learner, state: LearnerState
) -> None:
    trial = play(training, state, final_episodes=False)
    is_failed = torch.tensor([False, True, False])
    episodes, failed = usable_episodes(
        learner,
        trial.episodes[0].without(is_failed),
        0,
        FailedTasks.none_of(NUM_TASKS, torch.device("cpu")),
    )
    assert failed.mask.tolist() == is_failed.tolist()
    updated = learner.update(state, trial.beliefs[0], episodes, 0)
    belief, failed = contained_update(trial.beliefs[0], updated, 0, failed)
    assert failed.mask.tolist() == is_failed.tolist()
    for name, value in belief.items():
        assert value[1].equal(trial.beliefs[0][name][1])
        assert value[[0, 2]].equal(trial.beliefs[1][name][[0, 2]])


def _documented_metrics() -> set[str]:
    """Tags in docs/metrics.md, with k for numbers; ``_min`` ends the tag before it."""
    tags: list[str] = []
    for name in re.findall(r"`([\w/]+)`", (ROOT / "docs" / "metrics.md").read_text()):
        tags.append(tags[-1].rpartition("_")[0] + name if name.startswith("_") else name)
    return set(tags)


def test_an_iteration_counts_and_reports(training: Training, state: LearnerState) -> None:
    training = training.continued(state)
    copies = {
        group: {name: value.clone() for name, value in tensors.items()}
        for group, tensors in state.tensors.items()
    }
    after, metrics, failures = training.iterate()
    # The given state is unchanged, and the same state gives the same result.
    assert_same_states(LearnerState(copies, state.counters), state)
    assert_same_states(training.iterate().state, after)
    # Counters.
    assert after.counters["iteration"] == state.counters["iteration"] + 1
    learner, collector = training.agent.learner, training.collector
    num_episodes = NUM_TASKS * collector.num_episodes * learner.num_training_stages
    num_env_steps = after.counters["num_env_steps"] - state.counters["num_env_steps"]
    assert num_env_steps == num_episodes * collector.horizon
    # Metrics.
    assert failures == []
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    for stage in range(learner.num_training_stages):
        assert f"train/return_after_{stage}_steps" in metrics
    assert f"train/return_after_{learner.num_training_stages}_steps" not in metrics
    if not training.agent.config.learner.is_own:
        assert {re.sub(r"\d+", "k", name) for name in metrics} <= _documented_metrics()
    if "train/policy_std" in metrics:
        std = after.tensors["theta"]["log_std"].exp().mean()
        assert metrics["train/policy_std"] == pytest.approx(float(std))


def test_the_choice_after_training_does_not_change_the_next_iteration(
    training: Training, learner: Learner, state: LearnerState
) -> None:
    training = training.continued(state)
    ended = training.ended()
    learner.check(ended.agent.state, Path("run"))
    assert ended.iteration == training.iteration
    assert_same_states(training.ended().agent.state, ended.agent.state)
    assert_same_states(ended.iterate().state, training.iterate().state)
    description = learner.describe(ended.agent.state)
    assert json.loads(json.dumps(description)) == description


def test_a_checkpoint_restores_the_state(
    learner: Learner, training: Training, state: LearnerState, tmp_path: Path
) -> None:
    path = save_checkpoint(tmp_path, 1, state.tensors, state.counters)
    checkpoint = load_checkpoint(path, torch.device("cpu"))
    found = restored(checkpoint, learner)
    assert_same_states(found.state, state)
    for group in learner.ACTING:  # the order of names decides how parameters are flattened
        assert list(found.state.tensors.get(group, {})) == list(state.tensors.get(group, {}))
    assert_same_tensors(found.belief, learner.prior(state, 1))
    # An agent is restored without the history, with which a run continues.
    assert found.state.history == ()
    continued = training.continued(found.state._replace(history=state.history))
    assert_same_states(continued.iterate().state, training.continued(state).iterate().state)


def test_optional_groups_that_a_checkpoint_lacks_are_initial(
    learner: Learner, state: LearnerState, tmp_path: Path
) -> None:
    tensors = {name: value for name, value in state.tensors.items() if name not in learner.OPTIONAL}
    path = save_checkpoint(tmp_path, 1, tensors, state.counters)
    found = restored(load_checkpoint(path, torch.device("cpu")), learner).state
    initial = learner.initial_state().tensors
    for name, group in state.tensors.items():
        assert_same_tensors(
            found.tensors[name], initial[name] if name in learner.OPTIONAL else group
        )


def test_an_agent_adapts_and_is_saved(training: Training, state: LearnerState, tmp_path: Path):
    agent = training.agent.with_state(state)
    task = {"goal_x": 0.3, "goal_y": -0.2}
    adapted = agent.adapt(task=task, num_steps=2, seed=3)
    assert adapted.num_adaptation_steps == 2
    assert_same_tensors(adapted.belief, agent.adapt(task=task, num_steps=2, seed=3).belief)
    # After one step, saved or not, it takes the same second step.
    once = agent.adapt(task=task, num_steps=1, seed=3)
    saved = maml_rl.load(once.save(tmp_path / "once"))
    for first in (once, saved):
        assert_same_tensors(first.adapt(task=task, num_steps=1, seed=3).belief, adapted.belief)
    # Saved, it is the same agent.
    found = maml_rl.load(adapted.save(tmp_path / "adapted"))
    assert found.config == agent.config
    assert found.num_adaptation_steps == 2
    assert_same_tensors(found.belief, adapted.belief)
    for group in agent.learner.ACTING:
        assert_same_tensors(found.state.tensors.get(group, {}), state.tensors.get(group, {}))
    observations = np.random.default_rng(0).normal(size=(4, 2))
    action, _ = found.predict(observations, deterministic=True)
    np.testing.assert_array_equal(action, adapted.predict(observations, deterministic=True)[0])


def test_predict_plays_the_episode_that_the_collector_plays(
    training: Training, state: LearnerState
) -> None:
    agent = training.agent.with_state(state)
    collected = play(training, state, num_adaptation_steps=0, deterministic=True).episodes[0]
    env = training.collector.env
    num_episodes = training.collector.num_episodes
    seeds = RandomStreams.reset_seed(STREAMS, 0, NUM_TASKS * num_episodes)
    observation, _ = env.reset(seed=seeds)
    memory = reward = None
    starts = np.ones(env.num_envs, bool)
    rewards = []
    for _ in range(training.collector.horizon):
        action, memory = agent.predict(
            observation, memory, starts, deterministic=True, reward=reward
        )
        observation, reward, _, _, _ = env.step(action)
        starts = np.zeros(env.num_envs, bool)
        rewards.append(reward)
    played = np.stack(rewards, axis=1).reshape(NUM_TASKS, num_episodes, -1)
    np.testing.assert_allclose(played, collected.rewards.numpy(), rtol=1e-5, atol=1e-6)


def test_an_episode_start_begins_with_the_belief(training: Training, state: LearnerState) -> None:
    agent = training.agent.with_state(state)
    observations = np.zeros((3, 2))
    first, memory = agent.predict(observations, deterministic=True)
    starts = np.array([True, False, True])
    rewards = np.ones(3)
    second, memory = agent.predict(observations, memory, starts, deterministic=True, reward=rewards)
    np.testing.assert_array_equal(second[starts], first[starts])
    # Sampled, the environment whose episode continues has another memory than the others.
    _, memory = agent.predict(observations, rng=np.random.default_rng(0))
    if memory is not None:
        rng = np.random.default_rng(1)
        _, later = agent.predict(observations, memory, starts, rng=rng, reward=rewards)
        assert not np.array_equal(later[0][0], later[0][1])


def test_an_evaluation_has_every_episode_of_every_stage(
    training: Training, state: LearnerState
) -> None:
    agent = training.agent.with_state(state)
    result = maml_rl.evaluate(agent, num_tasks=3, num_episodes=4, num_steps=2, seed=1)
    assert result.returns.shape == result.success.shape == (3, 3, 4)
    assert np.isfinite(result.returns).all()
    assert len(np.unique(result.returns[0, 0])) == 4
    description = result.description
    assert description["learner"]["name"] == agent.config.learner.name
    assert description["num_episodes"] == 4
    stage_episodes = agent.config.learner.stage_episodes(4)
    assert description["episodes_per_step"] == stage_episodes
    again = maml_rl.evaluate(agent, num_tasks=3, num_episodes=4, num_steps=2, seed=1)
    np.testing.assert_array_equal(result.returns, again.returns)


def test_negative_counts_and_squares_are_refused(training: Training, state: LearnerState) -> None:
    learner = training.agent.learner
    groups = [name for name, tensors in state.tensors.items() if "squares" in tensors]
    assert ("normalizer" in groups) == bool(state.tensors.get("normalizer"))
    for group in groups:
        damaged = {**state.tensors[group], "squares": state.tensors[group]["squares"] - 1e9}
        tensors = {**state.tensors, group: damaged}
        with pytest.raises(UserError, match=f"the {group} in .* negative counts or squares"):
            learner.check(state._replace(tensors=tensors), Path("file"))


def test_a_new_run_starts_from_an_adapted_agent(
    training: Training, state: LearnerState, tmp_path: Path, settings: dict[str, Any]
) -> None:
    agent = training.agent.with_state(state)
    adapted = agent.adapt(task=drawn_task(agent), num_steps=1)
    source = adapted.save(tmp_path / "source")
    config = tiny(tmp_path / "new", **settings, init_from=str(source))
    with open_training(config) as new:
        assert new.agent.state.counters == new.agent.learner.initial_state().counters
        new.agent.learner.check(new.agent.state, source)
        assert new.iterate().state.counters["iteration"] == 1


def test_processes_share_an_iteration(
    training: Training, state: LearnerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    if state.history:
        pytest.skip("a replay of the same episodes twice is another one (test_distributed.py)")

    class TwoEqualRanks(Ranks):
        """Another process plays the same tasks: sums double, means stay."""

        def _all_reduce(self, values: torch.Tensor) -> torch.Tensor:
            return 2 * values

        def gather(self, values: torch.Tensor) -> torch.Tensor:
            return torch.cat([values, values])

    collector = training.collector
    tasks = sample_tasks(collector, STREAMS)
    monkeypatch.setattr(
        collector.env, "sample_tasks", lambda num_tasks: tasks[: num_tasks // 2] * 2
    )
    shared = training._replace(
        collector=dataclasses.replace(collector, num_tasks_of_all=2 * NUM_TASKS),
        ranks=TwoEqualRanks(number=2),
    )
    both = shared.continued(state).iterate()
    # Seeds depend on the number of tasks of all processes: here it does not matter which.
    alone = training._replace(collector=shared.collector).continued(state).iterate()
    for group in set(training.agent.learner.ACTING) - {"normalizer", "task_normalizer"}:
        assert_same_tensors(both.state.tensors[group], alone.state.tensors[group])
    old = state.counters["num_env_steps"]
    num_env_steps = both.state.counters["num_env_steps"] - old
    assert num_env_steps == 2 * (alone.state.counters["num_env_steps"] - old)


@pytest.mark.slow
def test_a_resumed_run_ends_bit_identical(settings: dict[str, Any], tmp_path: Path) -> None:
    logging = {"checkpoint_every": 2}
    whole = maml_rl.train(tiny(tmp_path / "whole", **settings, num_iterations=4, logging=logging))
    part = maml_rl.train(tiny(tmp_path / "part", **settings, num_iterations=2, logging=logging))
    maml_rl.resume(part, 4)
    assert_equal_runs(whole, part)
