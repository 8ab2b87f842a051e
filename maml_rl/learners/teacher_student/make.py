"""Make a teacher and a student from the settings of a run."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces

from maml_rl.errors import UserError
from maml_rl.learners.recurrent.trial_gradient import trials_per_block
from maml_rl.learners.teacher_student.learner import TeacherStudent
from maml_rl.learners.teacher_student.networks import Student, Teacher
from maml_rl.learners.teacher_student.window import Window
from maml_rl.policies.action_head import ActionHead
from maml_rl.policies.mlp import vector_size
from maml_rl.policies.recurrent.cell import RecurrentCell
from maml_rl.sampling.environments import as_task_vector_env
from maml_rl.sampling.task_in_observation import TaskEncoder
from maml_rl.settings.config import Config
from maml_rl.settings.families import dynamics_change
from maml_rl.settings.learners.teacher_student import RMAConfig, SysIDConfig


def teacher_student(
    config: Config,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    device: torch.device,
) -> TeacherStudent:
    """Make ``rma`` or ``sysid``; see :func:`maml_rl.learners.make.make_learner`.

    Raises:
        UserError: if the dynamics change within a task, or the environment does not fit.
    """
    settings = config.learner
    assert isinstance(settings, (RMAConfig, SysIDConfig)), "the settings choose the learner"
    if dynamics_change(config.env):
        raise UserError(
            f"learner {settings.name} cannot train on dynamics that change within a task "
            f"({', '.join(config.env.kwargs['dynamics'])}): its teacher observes the task as a "
            "constant. Valid learners are maml, joint, rl2 and pearl"
        )
    observation_size = vector_size(observation_space, f"the learner {settings.name}")
    head = ActionHead.of(action_space)
    with as_task_vector_env(None, config.env, 1, config.horizon) as env:
        task_encoder = TaskEncoder(env, config.env.name, f"learner {settings.name}")
    latent_size, encoder_hidden_sizes = task_encoder.size, None
    if isinstance(settings, RMAConfig):
        latent_size = settings.latent_size
        encoder_hidden_sizes = tuple(settings.encoder_hidden_sizes)
    teacher = Teacher(
        observation_size=observation_size,
        action_head=head,
        task_size=task_encoder.size,
        latent_size=latent_size,
        encoder_hidden_sizes=encoder_hidden_sizes,
        hidden_sizes=config.policy.hidden_sizes,
        nonlinearity=config.policy.nonlinearity,
        init_std=config.policy.init_std,
        horizon=config.horizon,
    )
    return TeacherStudent(
        teacher=teacher,
        student=_student(settings, teacher),
        config=settings,
        teacher_limits=settings.teacher_limits(config.num_iterations, config.max_env_steps),
        task_encoder=task_encoder,
        normalizes=config.policy.normalize_observations,
        num_adaptation_steps=settings.num_episodes - 1,
        num_training_stages=settings.num_episodes,
        max_failed_share=config.max_failed_share,
        device=device,
        seed=config.seed,
        trials_per_block=config.tasks_per_block or trials_per_block(device),
    )


def _student(settings: RMAConfig | SysIDConfig, teacher: Teacher) -> Student:
    """Return a student with a GRU and a linear estimate, or with a window and a perceptron."""
    if isinstance(settings, RMAConfig):
        cell = RecurrentCell(
            observation_size=teacher.observation_size,
            action_head=teacher.action_head,
            cell="gru",
            hidden_size=settings.hidden_size,
        )
        return Student(teacher=teacher, memory=cell, output_size=cell.hidden_size, hidden_sizes=())
    window = Window(
        observation_size=teacher.observation_size,
        previous_size=teacher.previous_size,
        num_steps=settings.window,
    )
    return Student(
        teacher=teacher,
        memory=window,
        output_size=window.memory_size,
        hidden_sizes=tuple(settings.estimator_hidden_sizes),
    )
