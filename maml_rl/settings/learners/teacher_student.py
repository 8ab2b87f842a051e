"""Settings of a teacher that observes the task, and of a student that infers it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from maml_rl.settings.learners.trial_ppo import TrialPPOConfig
from maml_rl.settings.ranges import Each, Integer, OrNone, Positive, Range

_IMPLEMENTATION = "maml_rl.learners.teacher_student.make:teacher_student"


@dataclass(frozen=True, kw_only=True)
class TeacherStudentConfig(TrialPPOConfig):
    """What ``rma`` and ``sysid`` share: two phases of training."""

    teacher_iterations: int | None = None
    """Iterations that train the teacher; later ones train the student. null: two thirds of
    num_iterations, or of max_env_steps if its control steps are taken earlier."""
    student_step_size: float = 1e-3
    """Adam's step size for the student."""
    student_epochs: int = 4
    """Passes over the trials of an iteration that trains the student."""

    RANGES: ClassVar[Mapping[str, Range]] = {
        **TrialPPOConfig.RANGES,
        "teacher_iterations": OrNone(Integer(1, 1_000_000_000)),
        "student_step_size": Positive(),
        "student_epochs": Integer(1, 10_000),
    }

    def check(self, config: Any) -> None:
        """Refuse networks of the user's own, and a run without a student that infers the task."""
        super().check(config)
        if config.env.observe_task:
            raise ValueError(
                f"env.observe_task must be false if learner.name is {self.name}, got true: the "
                "teacher observes the task anyway, and the student must infer it"
            )
        if config.num_iterations < 2:
            raise ValueError(
                "num_iterations must be at least 2: teacher and student have one each, got "
                f"{config.num_iterations}"
            )
        number = self.teacher_iterations
        if number is not None and number >= config.num_iterations:
            raise ValueError(
                f"learner.teacher_iterations must be below num_iterations {config.num_iterations}, "
                f"whose other iterations train the student, got {number}"
            )

        num_env_steps = config.meta_batch_size * self.num_episodes * config.horizon
        most = config.max_env_steps
        if number is None and most is not None and most < 3 * num_env_steps:
            raise ValueError(
                f"max_env_steps must be at least {3 * num_env_steps:,}, three iterations of "
                f"{config.meta_batch_size} tasks x {self.num_episodes} episodes x {config.horizon} "
                f"control steps: two thirds of them train the teacher, got {most:,}"
            )

    def teacher_limits(self, num_iterations: int, max_env_steps: int | None) -> tuple[int, float]:
        """Return the number of iterations, and that of control steps, that end the first phase.

        Args:
            num_iterations: of the run.
            max_env_steps: of the run; ``None`` if it has no limit.
        """
        if self.teacher_iterations is not None:
            return self.teacher_iterations, math.inf
        return 2 * num_iterations // 3, 2 * (max_env_steps or math.inf) / 3


@dataclass(frozen=True, kw_only=True)
class RMAConfig(TeacherStudentConfig):
    """A teacher that reads z, an encoding of the task; a recurrent student that infers z."""

    name: str = "rma"
    latent_size: int = 8
    """Number of entries of z."""
    encoder_hidden_sizes: tuple[int, ...] = (64, 64)
    """Width of each hidden layer of the encoder from the task to z."""
    hidden_size: int = 128
    """Size of the student's GRU."""

    IMPLEMENTATION: ClassVar[str] = _IMPLEMENTATION
    ON_DEVICE: ClassVar[bool] = True
    RANGES: ClassVar[Mapping[str, Range]] = {
        **TeacherStudentConfig.RANGES,
        "latent_size": Integer(1, 1 << 10),
        "encoder_hidden_sizes": Each(Integer(1, 1 << 12), most=16),
        "hidden_size": Integer(1, 1 << 12),
    }


@dataclass(frozen=True, kw_only=True)
class SysIDConfig(TeacherStudentConfig):
    """A teacher that reads the task; a student that identifies it from its last steps."""

    name: str = "sysid"
    window: int = 16
    """Number of last control steps that the student reads, also across episodes."""
    estimator_hidden_sizes: tuple[int, ...] = (128, 64)
    """Width of each hidden layer of the student's estimator."""

    IMPLEMENTATION: ClassVar[str] = _IMPLEMENTATION
    ON_DEVICE: ClassVar[bool] = True
    RANGES: ClassVar[Mapping[str, Range]] = {
        **TeacherStudentConfig.RANGES,
        "window": Integer(1, 10_000),
        "estimator_hidden_sizes": Each(Integer(1, 1 << 12), most=16),
    }
