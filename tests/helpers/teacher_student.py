"""Float64 teachers and students, and their equations once more, one step at a time.

The functions ``plain_*`` share no code with the package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from helpers.recurrent import HEADS, OBSERVATION_SIZE, Theta, plain_cell, plain_encoded
from torch import Tensor

from maml_rl.learners.teacher_student.networks import Student, Teacher
from maml_rl.learners.teacher_student.window import Window
from maml_rl.policies.recurrent.cell import RecurrentCell
from maml_rl.sampling.episodes import Episodes

TASK_SIZE = 2
LATENT_SIZE = 3
NUM_WINDOW_STEPS = 3
KINDS = ("rma", "sysid")


def make_teacher(kind: str, head: str = "continuous") -> Teacher:
    """A small teacher: with an encoder, or with the task for z."""
    return Teacher(
        observation_size=OBSERVATION_SIZE,
        action_head=HEADS[head],
        task_size=TASK_SIZE,
        latent_size=LATENT_SIZE if kind == "rma" else TASK_SIZE,
        encoder_hidden_sizes=(4,) if kind == "rma" else None,
        hidden_sizes=(5,),
        nonlinearity="tanh",
        init_std=0.7,
        horizon=10,
    )


def make_student(kind: str, head: str = "continuous") -> Student:
    """A small student: with a GRU, or with a window."""
    teacher = make_teacher(kind, head)
    if kind == "rma":
        cell = RecurrentCell(
            observation_size=OBSERVATION_SIZE,
            action_head=teacher.action_head,
            cell="gru",
            hidden_size=4,
        )
        return Student(teacher=teacher, memory=cell, output_size=4, hidden_sizes=())
    window = Window(
        observation_size=OBSERVATION_SIZE,
        previous_size=teacher.previous_size,
        num_steps=NUM_WINDOW_STEPS,
    )
    size = window.memory_size
    return Student(teacher=teacher, memory=window, output_size=size, hidden_sizes=(4,))


def make_parameters(network: Teacher | Student, seed: int = 0) -> dict[str, Tensor]:
    """Parameters of which none is at its initial value, float64."""
    rng = np.random.default_rng(seed)
    return {
        name: value.double() + torch.from_numpy(0.3 * rng.standard_normal(value.shape))
        for name, value in network.initial_parameters(rng).items()
    }


def plain_perceptron(theta: Theta, name: str, num_layers: int, x: Tensor) -> Tensor:
    """A perceptron with tanh, for one input (fan_in,)."""
    for i in range(num_layers):
        x = x if i == 0 else torch.tanh(x)
        x = x @ theta[f"{name}_{i}_weight"] + theta[f"{name}_{i}_bias"]
    return x


def plain_inputs(student: Student, stages: list[Episodes], trial: int) -> list[Tensor]:
    """Observation, previous action, reward and end of an episode at each real step of a trial."""
    previous = torch.zeros(student.previous_size, dtype=torch.float64)
    inputs = []
    for stage in stages:
        length = int(stage.mask[trial, 0].sum())
        for t in range(length):
            at = (trial, 0, t)
            inputs.append(torch.cat([stage.observations[at], previous]))
            action = plain_encoded(student.action_head, stage.actions[at])
            result = [float(stage.rewards[at]), float(t == length - 1)]
            previous = torch.cat([action, torch.tensor(result, dtype=torch.float64)])
    return inputs


def plain_estimates(
    student: Student, theta: Theta, stages: list[Episodes], trial: int
) -> list[Tensor]:
    """The estimate of z at each real step of a trial."""
    inputs = plain_inputs(student, stages, trial)
    num_layers = len(student.hidden_sizes) + 1
    if isinstance(student.memory, Window):
        nothing = [torch.zeros_like(inputs[0])] * (NUM_WINDOW_STEPS - 1)
        padded = [*nothing, *inputs]
        outputs = [torch.cat(padded[t : t + NUM_WINDOW_STEPS]) for t in range(len(inputs))]
    else:
        outputs = list(_plain_memories(student.memory, theta, inputs))
    return [plain_perceptron(theta, "estimate", num_layers, output) for output in outputs]


def _plain_memories(cell: Any, theta: Theta, inputs: list[Tensor]) -> list[Tensor]:
    memory = torch.zeros(cell.hidden_size, dtype=torch.float64)
    memories = []
    sizes = (OBSERVATION_SIZE, cell.action_head.size, 2)
    for x in inputs:
        names = ("observation", "action", "reward")
        encoded = [
            torch.relu(part @ theta[f"{name}_encoder_weight"] + theta[f"{name}_encoder_bias"])
            for name, part in zip(names, x.split(sizes), strict=True)
        ]
        memory = plain_cell(cell, theta, memory, torch.cat(encoded))
        memories.append(memory)
    return memories
