"""Step sizes outside training: what is chosen, when, and how it is described."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import tiny
from torch import Tensor

from maml_rl.learners.base import LearnerState
from maml_rl.learners.maml.learner import MAML
from maml_rl.learners.maml.step_schedule import (
    NUM_TEST_FACTORS,
    describe_schedule,
    initial_schedule,
    schedules,
    with_test_factors,
)
from maml_rl.learners.trials import play_trials, sample_tasks
from maml_rl.settings.learners import InnerConfig
from maml_rl.system.distributed import Ranks
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import Training, open_training

STREAMS = RandomStreams(0, Phase.AFTER_TRAINING, 1)


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    with open_training(tiny(tmp_path / "run", meta_batch_size=4, num_episodes=3)) as training:
        yield training


def chosen(training: Training, **inner: Any) -> LearnerState:
    """The state after the choice, with other settings of adaptation."""
    learner = training.agent.learner
    assert isinstance(learner, MAML)
    learner = dataclasses.replace(learner, inner=dataclasses.replace(learner.inner, **inner))
    return learner.after_training(training.agent.state, training.collector, STREAMS, Ranks())


def factors_of(state: LearnerState) -> list[float]:
    return state.tensors["adaptation"]["test_factors"].tolist()


def test_the_schedules_are_constant_or_halved() -> None:
    assert [factors[:3] for factors in schedules(1)] == [
        [1, 1, 1],
        [1, 0.5, 0.25],
        [0.5, 0.5, 0.5],
        [0.5, 0.25, 0.125],
        [0.25, 0.25, 0.25],
        [0.25, 0.125, 0.0625],
    ]


def test_with_several_inner_steps_they_can_be_halved_after_those_of_training() -> None:
    assert [factors[:5] for factors in schedules(3)[:3]] == [
        [1, 1, 1, 1, 1],
        [1, 0.5, 0.25, 0.125, 0.0625],
        [1, 1, 1, 0.5, 0.25],
    ]
    assert len(schedules(3)) == 9
    assert all(len(factors) == NUM_TEST_FACTORS for factors in schedules(3))


@pytest.mark.thorough
@pytest.mark.parametrize("step_size", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("num_adaptation_steps", [1, 4])
def test_the_schedule_with_the_highest_return_over_the_steps_is_chosen(
    training: Training, step_size: float, num_adaptation_steps: int
) -> None:
    learner = training.agent.learner
    assert isinstance(learner, MAML)
    learner = dataclasses.replace(
        learner,
        inner=dataclasses.replace(learner.inner, step_size=step_size),
        num_adaptation_steps=num_adaptation_steps,
    )
    state = training.agent.state
    after = learner.after_training(state, training.collector, STREAMS, Ranks())
    # Each schedule in a whole trial of its own.
    tasks = sample_tasks(training.collector, STREAMS)
    returns = []
    candidates = schedules(num_adaptation_steps)
    for factors in candidates:
        trial = play_trials(
            learner,
            with_test_factors(state, factors),
            training.collector,
            tasks,
            num_adaptation_steps=max(3, num_adaptation_steps + 2),
            streams=STREAMS,
        )
        stages = torch.stack([stage.returns for stage in trial.episodes[1:]])
        returns.append(float(stages.double().mean()))
    assert len(set(returns)) == len(candidates)
    assert factors_of(after) == candidates[returns.index(max(returns))]
    assert after.tensors["adaptation"]["num_choice_tasks"].tolist() == [4]
    learner.check(after, Path("run"))
    # Nothing else changes.
    assert after.counters == state.counters
    for group in ("theta", "normalizer", "outer"):
        assert after.tensors[group] is state.tensors[group]


@pytest.mark.parametrize("num_adaptation_steps", [1, 4])
def test_the_choice_takes_two_steps_more_than_training(
    training: Training, monkeypatch: pytest.MonkeyPatch, num_adaptation_steps: int
) -> None:
    stages, update = set(), MAML.update

    def noted(self, state, belief, episodes, stage):
        stages.add(stage)
        return update(self, state, belief, episodes, stage)

    monkeypatch.setattr(MAML, "update", noted)
    learner = dataclasses.replace(training.agent.learner, num_adaptation_steps=num_adaptation_steps)
    learner.after_training(training.agent.state, training.collector, STREAMS, Ranks())
    assert stages == set(range(num_adaptation_steps + 2))


def test_too_large_steps_are_replaced_by_smaller_ones(training: Training) -> None:
    """At 30 the first step ruins the policy, and a quarter of it ruins it less."""
    assert factors_of(chosen(training, step_size=30.0)) != schedules(1)[0]


def failing(monkeypatch: pytest.MonkeyPatch, failing_stage: int, limit: float) -> None:
    """Let the first task fail if the step in a stage has a factor of at least the limit."""
    update = MAML.update

    def failing_update(self, state, belief, episodes, stage):
        updated = dict(update(self, state, belief, episodes, stage))
        if stage == failing_stage and factors_of(state)[stage] >= limit:
            name, value = next(iter(updated.items()))
            updated[name] = value.clone()
            updated[name][0] = math.nan
        return updated

    monkeypatch.setattr(MAML, "update", failing_update)


@pytest.mark.parametrize(("stage", "limit"), [(0, 0.5), (1, 0.25)])
def test_a_schedule_with_which_a_task_fails_is_not_chosen(
    training: Training, monkeypatch: pytest.MonkeyPatch, stage: int, limit: float
) -> None:
    allowed = [factors for factors in schedules(1) if factors[stage] < limit]
    assert factors_of(chosen(training)) not in allowed
    failing(monkeypatch, stage, limit)
    assert factors_of(chosen(training)) in allowed


@pytest.mark.parametrize("stage", [0, 1])
def test_if_a_task_fails_with_every_schedule_step_sizes_stay(
    training: Training, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    failing(monkeypatch, stage, 0.0)
    assert factors_of(chosen(training)) == schedules(1)[0]


def test_a_task_that_fails_before_adaptation_does_not_count(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its advantages are not finite, whatever the schedule."""
    original = MAML.with_advantages

    def spoilt(self, episodes):
        episodes = original(self, episodes)
        episodes.advantages[0] = math.nan
        return episodes

    before = factors_of(chosen(training, step_size=30.0))
    assert before != schedules(1)[0]
    monkeypatch.setattr(MAML, "with_advantages", spoilt)
    assert factors_of(chosen(training, step_size=30.0)) != schedules(1)[0]


def test_of_equal_schedules_the_constant_one_is_chosen(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MAML, "update", lambda self, state, belief, episodes, stage: belief)
    state = chosen(training)
    assert factors_of(state) == schedules(1)[0]
    assert state.tensors["adaptation"]["num_choice_tasks"].tolist() == [4]


def test_processes_choose_the_same(training: Training) -> None:
    """Another process plays the same tasks: sums double, means stay."""
    seen: list[Tensor] = []

    class TwoEqualRanks(Ranks):
        def _all_reduce(self, values: Tensor) -> Tensor:
            seen.append(values)
            return 2 * values

    learner, state = training.agent.learner, training.agent.state
    alone = learner.after_training(state, training.collector, STREAMS, Ranks())
    both = learner.after_training(state, training.collector, STREAMS, TwoEqualRanks(0, 2))
    assert factors_of(both) == factors_of(alone)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"inner": {"test_step_sizes": [0.2, 0.1]}},
        {"inner": {"choose_test_step_sizes": False}},
        {"inner": {"num_steps": 0}},
        {"learner": "joint"},
    ],
)
def test_nothing_is_chosen_where_step_sizes_are_fixed_or_training_has_none(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    with open_training(tiny(tmp_path / "run", **settings)) as training:
        state = training.agent.state
        learner = training.agent.learner
        assert learner.after_training(state, training.collector, STREAMS, Ranks()) is state


def test_the_next_iteration_forgets_the_choice(training: Training) -> None:
    state = training.agent.state
    ended = with_test_factors(state, [0.25, 0.1], num_tasks=4)
    after, expected = (training.continued(one).iterate().state for one in (ended, state))
    for group, tensors in expected.tensors.items():
        for name, value in tensors.items():
            assert after.tensors[group][name].equal(value), f"{group} {name}"


def described(inner: dict[str, Any], *factors: float, num_tasks: int = 0) -> dict[str, Any]:
    adaptation = initial_schedule(torch.device("cpu"))
    state = LearnerState.initial({"adaptation": adaptation})
    if factors:
        state = with_test_factors(state, factors, num_tasks)
    return describe_schedule(InnerConfig(**inner), state)


@pytest.mark.parametrize(
    ("description", "key", "values", "note"),
    [
        (described({}), "step_sizes", [0.1] * 10, "0.1 (inner.step_size)"),
        (
            described({"step_size": 0.2}, *schedules(1)[1], num_tasks=40),
            "step_sizes",
            [0.2 / 2**step for step in range(10)],
            "0.2, 0.1, 0.05, ... (chosen on 40 training tasks)",
        ),
        (
            described({"step_size": 0.4, "num_steps": 4}, *schedules(1)[3], num_tasks=1),
            "step_sizes",
            [0.2 / 2**step for step in range(10)],
            "0.2, 0.1, 0.05, 0.025, ... (chosen on 1 training task)",
        ),
        (
            described({"test_step_sizes": (0.3, 0.1)}),
            "step_sizes",
            [0.3, *[0.1] * 9],
            "0.3, 0.1, 0.1, ... (inner.test_step_sizes)",
        ),
        (
            described({"test_step_sizes": tuple(range(1, 13))}),
            "step_sizes",
            list(range(1, 13)),
            "1, 2, 3, ... (inner.test_step_sizes)",
        ),
        (
            described({"learned_step_size": "scalar"}),
            "step_size_factors",
            [1.0] * 10,
            "learned (inner.learned_step_size)",
        ),
        (
            described({"learned_step_size": "scalar"}, 0.5, num_tasks=20),
            "step_size_factors",
            [0.5] * 10,
            "learned × 0.5 (chosen on 20 training tasks)",
        ),
        (
            described({"learned_step_size": "scalar"}, 1.0, num_tasks=20),
            "step_size_factors",
            [1.0] * 10,
            "learned × 1 (chosen on 20 training tasks)",
        ),
    ],
)
def test_a_description_names_step_sizes_and_where_they_come_from(
    description: dict[str, Any], key: str, values: list[float], note: str
) -> None:
    assert description[key] == pytest.approx(values)
    assert description == {
        key: description[key],
        "note": f"adaptation step sizes after training: {note}",
    }


def test_a_new_run_takes_neither_schedule_nor_scale_from_another(training: Training) -> None:
    """The scale it takes only if it uses one."""
    learner, state = training.agent.learner, training.agent.state
    assert isinstance(learner, MAML)
    other = with_test_factors(state, [0.5, 0.25], num_tasks=4)
    adaptation = {**other.tensors["adaptation"], "advantage_std": torch.tensor([3.0])}
    other = other._replace(tensors={**other.tensors, "adaptation": adaptation})
    belief = learner.prior(other, 1)
    fresh = learner.initial_state().tensors["adaptation"]
    for shares, std in ((False, 1.0), (True, 3.0)):
        inner = dataclasses.replace(learner.inner, shared_advantage_scale=shares)
        new = dataclasses.replace(learner, inner=inner).started_from(other, belief)
        assert float(new.tensors["adaptation"]["advantage_std"]) == std
        for name in ("test_factors", "num_choice_tasks"):
            assert torch.equal(new.tensors["adaptation"][name], fresh[name])
