"""Train the student: regress the teacher's z from the trials that the student plays.

Deviation: UP-OSI is first trained on the teacher's trials. Here the student plays from the start,
because its own trials are those of its use.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.recurrent.sequence import TrialSequence
from maml_rl.learners.recurrent.trial_gradient import descend, mean_gradient, minibatches
from maml_rl.learners.teacher_student.networks import Student
from maml_rl.policies.parameters import Params
from maml_rl.settings.learners.teacher_student import TeacherStudentConfig
from maml_rl.system.distributed import Ranks


class StudentBatch(NamedTuple):
    """What the student learns from N trials."""

    sequence: TrialSequence
    """Their steps."""
    latents: Tensor
    """The teacher's z, (N, latent_size), a constant."""

    def chosen(self, trials: Tensor | slice) -> StudentBatch:
        """The batch of some trials: indices, a mask (N,) bool, or a slice."""
        return StudentBatch(self.sequence.chosen(trials), self.latents[trials])


def latent_loss(
    student: Student, parameters: Params, batch: StudentBatch, truncation: int | None
) -> Tensor:
    """Return Σ_t ‖ẑ_t − z‖² / dim z over the real steps of each trial, (N,).

    Args:
        student: the architecture.
        parameters: of the student.
        batch: N trials.
        truncation: steps after which backpropagation through time is cut; ``None`` for never.
    """
    sequence = batch.sequence
    estimates = student.estimates_along_trials(
        parameters, sequence.observations, sequence.previous, truncation
    )
    errors = (estimates - batch.latents[:, None]).square().mean(-1)
    return torch.where(sequence.mask > 0, errors, 0.0).sum(1)


def student_update(
    student: Student,
    parameters: Params,
    state: dict[str, Tensor],
    batch: StudentBatch,
    indices: Tensor,
    num_trials: int,
    config: TeacherStudentConfig,
    rng: np.random.Generator,
    ranks: Ranks,
    block_size: int,
) -> tuple[Params, dict[str, Tensor], dict[str, float]]:
    """Update the student by several passes over the trials.

    Args:
        student: the architecture.
        parameters: of the student.
        state: of Adam.
        batch: N trials, those of this process.
        indices: of these trials among those of all processes, (N,).
        num_trials: number of trials of all processes, including those that failed.
        config: settings.
        rng: stream that divides the trials into minibatches, the same in all processes.
        ranks: the processes.
        block_size: trials whose gradient is computed at once.

    Returns:
        The new parameters, the state of Adam, and metrics.

    Raises:
        FloatingPointError: if a gradient is not finite.
    """

    def loss(leaves: Params, trials: StudentBatch) -> tuple[Tensor, list[Tensor]]:
        losses = latent_loss(student, leaves, trials, config.truncation)
        return losses, [losses]

    errors, norms = [], []
    for is_chosen in minibatches(
        indices, num_trials, config.student_epochs, config.num_minibatches, rng, ranks
    ):
        part = batch.chosen(is_chosen)
        gradient, (error,) = mean_gradient(loss, 1, parameters, part, ranks, block_size)
        step_size, max_norm = config.student_step_size, config.max_gradient_norm
        parameters, state, norm = descend(parameters, gradient, state, step_size, max_norm)
        errors.append(float(error))
        norms.append(norm)
    metrics = {
        "update/latent_error": float(np.mean(errors)),
        "update/gradient_norm": float(np.mean(norms)),
        "update/num_steps": float(len(errors)),
        "update/step_size": config.student_step_size,
    }
    return parameters, state, metrics
