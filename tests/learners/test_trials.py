"""Trials: each stage has its own parameters, random numbers and advantages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from helpers.runs import tiny

from maml_rl.learners.advantages import with_advantages
from maml_rl.learners.maml.inner_step import inner_step
from maml_rl.learners.maml.learner import MetaTrainer
from maml_rl.learners.trials import Trial, play_stages, sample_tasks
from maml_rl.policies.parameters import Params, make_stack
from maml_rl.sampling.episodes import Episodes
from maml_rl.system.random_streams import Phase, RandomStreams
from maml_rl.training.compose import open_trainer

STREAMS = RandomStreams(0, Phase.TRAINING, 0)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MetaTrainer]:
    config = tiny(tmp_path_factory.mktemp("trials") / "run", meta_batch_size=3, num_episodes=4)
    with open_trainer(config) as (trainer, _, _):
        yield trainer


def play(trainer: MetaTrainer, stack: Params, num_updates: int, **options: object) -> Trial:
    def update(stack: Params, support: Episodes, step: int) -> Params:
        return inner_step(trainer.collector.policy, stack, support, trainer.inner, step)

    return play_stages(
        trainer.collector,
        stack,
        sample_tasks(trainer.collector, STREAMS),
        update,
        trainer.baseline,
        num_updates=num_updates,
        streams=STREAMS,
        normalizer=None,
        **options,
    )


def initial_stack(trainer: MetaTrainer) -> Params:
    policy = trainer.collector.policy
    return make_stack(dict(policy.named_parameters()), trainer.collector.num_tasks)


def assert_same_episodes(episodes: Episodes, expected: Episodes) -> None:
    for name in ("observations", "actions", "rewards", "advantages"):
        assert torch.equal(getattr(episodes, name), getattr(expected, name)), name


def test_each_stage_is_played_with_its_own_parameters_and_random_numbers(trainer: MetaTrainer):
    trial = play(trainer, initial_stack(trainer), 2)
    assert len(trial.episodes) == len(trial.stacks) == 3
    for step, (stack, episodes) in enumerate(zip(trial.stacks, trial.episodes, strict=True)):
        collected = trainer.collector.collect(stack, STREAMS, step, None)
        assert_same_episodes(episodes, with_advantages(collected, trainer.baseline))
    assert not torch.equal(trial.stacks[0]["weight_0"], trial.stacks[2]["weight_0"])


def test_a_trial_continues_another(trainer: MetaTrainer):
    whole = play(trainer, initial_stack(trainer), 2)
    first = play(trainer, initial_stack(trainer), 1, final_episodes=False)
    assert len(first.episodes) == 1
    second = play(trainer, first.stacks[-1], 1, first_step=1)
    for episodes, expected in zip(second.episodes, whole.episodes[1:], strict=True):
        assert_same_episodes(episodes, expected)


def test_a_trial_without_a_stage_has_no_failures(trainer: MetaTrainer):
    trial = play(trainer, initial_stack(trainer), 0, final_episodes=False)
    assert trial.episodes == []
    assert trial.failures.rows([{}] * 3) == []
    trial.failures.refuse_failed_tasks([{}] * 3)
