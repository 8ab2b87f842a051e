"""The description of a made-up evaluation."""

from __future__ import annotations

from typing import Any


def made_up_description(num_tasks: int, **changes: Any) -> dict[str, Any]:
    """What :func:`maml_rl.evaluate` writes about an evaluation, as plain values.

    Args:
        num_tasks: number of tasks.
        changes: of other values.
    """
    description: dict[str, Any] = {
        "env": "Test",
        "env_settings": {},
        "horizon": 5,
        "num_tasks": num_tasks,
        "num_episodes": 2,
        "episodes_per_step": 2,
        "actions": "sampled",
        "adaptation_actions": "sampled",
        "seed": 0,
        "task_units": {},
        "task_value_names": {},
        "tasks_are_given": False,
        "num_steps_in_training": 1,
        "learner": {"name": "maml"},
        "training_seed": 7,
        "num_iterations": 30,
        "num_env_steps": 12_000,
        "is_best": False,
        "stage_is_episode": False,
    }
    return description | changes
