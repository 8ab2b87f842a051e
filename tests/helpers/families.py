"""Representative families, for tests of code that all families share."""

from __future__ import annotations

from maml_envs import FAMILIES

PER_ENGINE = ("HalfCheetahVel", "PointNavigation")
"""One family per engine."""

PER_KIND = (
    "HalfCheetahVel",  # goal velocity
    "Walker2dDir",  # direction; episodes end early
    "HumanoidDir",  # direction angle; derived state fields
    "ReacherGoal",  # goal position; success
    "CrippledAnt",  # the task is a parameter of the dynamics
    "HopperRandParams",  # the family has no task parameters
    "PointNavigation",  # point engine
)
"""One family per kind of task; covers both engines."""

PER_ROBOT = tuple(
    {
        getattr(family.robot, "model_file", type(family.robot).__name__): name
        for name, family in reversed(FAMILIES.items())
    }.values()
)
"""The first family of each robot."""
