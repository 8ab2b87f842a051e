"""The benchmark that trains until the return reaches a target."""

from __future__ import annotations

import pytest
from helpers.scripts import load_script

from maml_rl.settings.parser import parse_training_arguments
from maml_rl.training.compose import open_training

load_script("benchmarks/floor.py")
time_to_return = load_script("benchmarks/time_to_return.py")

FLAGS = [
    "--env=HalfCheetahDir",
    "--meta_batch_size=2",
    "--num_episodes=2",
    "--horizon=5",
    "--policy.hidden_sizes=[4]",
    "--num_iterations=4",
    "--device=cpu",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "status", "iterations"), [("-1e9", 0, 3), ("1e9", 1, 4)], ids=["low", "high"]
)
def test_training_ends_at_the_target(target, status, iterations, capsys) -> None:
    assert time_to_return.main([*FLAGS, f"--target={target}"]) == status
    printed = capsys.readouterr().out
    assert f"iterations:             {iterations}\n" in printed
    assert ("NOT reached" in printed) == bool(status)


@pytest.mark.slow
def test_replays_do_not_change_training() -> None:
    config = parse_training_arguments([*FLAGS, "--num_iterations=3"])
    result = time_to_return.train_to(1e9, config, replay_every=1)
    returns = []
    with open_training(config) as training:
        for _ in range(3):
            iteration = training.iterate()
            returns.append(iteration.metrics["train/return_after_1_steps"])
            training = training.continued(iteration.state)
    assert result.last_return == pytest.approx(sum(returns) / 3, rel=1e-12)
    assert result.num_env_steps == 3 * 2 * 2 * 2 * 5
    assert result.floor_s > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env=PointNavigation"], "has no physics"),
        (["--inner.num_step=2"], "num_steps"),
        (["--target=high"], "--target"),
    ],
)
def test_bad_flags_are_one_message(flags, message, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        time_to_return.main([*FLAGS, "--target=0", *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
