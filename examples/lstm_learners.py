"""Two meta-learners with an LSTM, for ``sine_regression.py`` and ``digits.py``.

The **recurrent learner** (Santoro et al. 2016) adapts by its memory only. An LSTM reads the points
of a task one by one, x_t together with the label y_{t−1} of the point before, and predicts y_t.
The paper compares an LSTM with its external memory; sequences are short here, so this is the LSTM.

The **LSTM meta-learner** (Ravi and Larochelle 2017) adapts parameters by a learned update, an LSTM
cell whose cell state is theta:

theta_t = f_t ∘ theta_{t−1} − i_t ∘ ∇L(theta_{t−1})
i_t = σ(u_i · h_t + v_i theta_{t−1} + w_i i_{t−1} + b_i)
f_t = σ(u_f · h_t + v_f theta_{t−1} + w_f f_{t−1} + b_f)

h_t is the output of an ordinary LSTM that reads the gradient and the loss. All tasks and all
coordinates of theta share its weights and those of the gates; each coordinate has its own state.
theta_0 is learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from maml_rl.policies.parameters import Params, flatten, unflatten

Batch = TypeVar("Batch")

MEMORY_SIZE = 200
"""Units of the recurrent learner's LSTM, as many as the paper's controller has."""
UPDATER_SIZE = 20
"""Units of the LSTM that reads gradients and losses, as in the paper."""
LOG_RANGE = 10.0
"""p of the preprocessing of gradients and losses, as in the paper."""
FORGET_BIAS = 5.0
"""Initial b_f: f starts close to 1, at 0.993."""


class LSTMState(NamedTuple):
    """State of an LSTM after some steps of N sequences."""

    hidden: Tensor
    """(1, N, size)."""
    cell: Tensor
    """(1, N, size)."""


def uniform(rng: np.random.Generator, bound: float, *shape: int) -> Tensor:
    """Draw weights uniform in [−bound, bound]."""
    return torch.from_numpy(rng.uniform(-bound, bound, shape)).float()


def initial_lstm(
    rng: np.random.Generator, prefix: str, num_inputs: int, size: int
) -> dict[str, Tensor]:
    """Return the parameters of an LSTM under names that start with ``prefix``."""
    return {
        f"{prefix}/weight_input": uniform(rng, size**-0.5, 4 * size, num_inputs),
        f"{prefix}/weight_hidden": uniform(rng, size**-0.5, 4 * size, size),
        f"{prefix}/bias_input": torch.zeros(4 * size),
        f"{prefix}/bias_hidden": torch.zeros(4 * size),
    }


def lstm(theta: Params, prefix: str, inputs: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
    """Run an LSTM over N sequences of L steps: (N, L, num_inputs) to (N, L, size), last state."""
    names = ("weight_input", "weight_hidden", "bias_input", "bias_hidden")
    outputs, hidden, cell = torch.lstm(
        inputs,
        state,
        [theta[f"{prefix}/{name}"] for name in names],
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=True,
        bidirectional=False,
        batch_first=True,
    )
    return outputs, LSTMState(hidden, cell)


class Memory(NamedTuple):
    """What the recurrent learner knows of T tasks."""

    state: LSTMState
    """After the points that were read."""
    label: Tensor
    """(T, D): the label of the last point, which is read with the next one; zeros at first."""


def initial_recurrent(
    rng: np.random.Generator, num_inputs: int, num_labels: int
) -> dict[str, Tensor]:
    """Return the parameters of the recurrent learner.

    Args:
        rng: stream of the weights.
        num_inputs: numbers per input x.
        num_labels: numbers per label y, D.
    """
    return {
        **initial_lstm(rng, "recurrent", num_inputs + num_labels, MEMORY_SIZE),
        "recurrent/weight_output": uniform(rng, MEMORY_SIZE**-0.5, MEMORY_SIZE, num_labels),
        "recurrent/bias_output": torch.zeros(num_labels),
    }


def blank_memory(theta: Params, num_tasks: int) -> Memory:
    """Return the memory of ``num_tasks`` tasks before any point."""
    bias = theta["recurrent/bias_output"]
    zeros = bias.new_zeros(1, num_tasks, MEMORY_SIZE)
    return Memory(LSTMState(zeros, zeros), bias.new_zeros(num_tasks, len(bias)))


def read(theta: Params, memory: Memory, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Memory]:
    """Read labelled points, and predict each one before its own label is read.

    Args:
        theta: parameters (see :func:`initial_recurrent`).
        memory: of T tasks.
        inputs: in the order of reading, (T, N, num_inputs) with N ≥ 1.
        labels: of the inputs, (T, N, D).

    Returns:
        Predictions (T, N, D), and the memory after the last point.
    """
    # One step late: label t − 1 is read with input t.
    late_labels = torch.cat([memory.label[:, None], labels[:, :-1]], dim=1)
    steps = torch.cat([inputs, late_labels], dim=-1)
    outputs, state = lstm(theta, "recurrent", steps, memory.state)
    predictions = outputs @ theta["recurrent/weight_output"] + theta["recurrent/bias_output"]
    return predictions, Memory(state, labels[:, -1])


def answer(theta: Params, memory: Memory, inputs: Tensor) -> Tensor:
    """Predict points (T, N, num_inputs), each directly after those that were read; (T, N, D).

    Each is the last of a sequence of its own, so predictions do not depend on other queries.
    """
    num_points = inputs.shape[1]
    state = LSTMState(*(x.repeat_interleave(num_points, dim=1) for x in memory.state))
    label = memory.label.repeat_interleave(num_points, dim=0)
    # Their own labels would be read with later points; there are none.
    predictions, _ = read(
        theta, Memory(state, label), inputs.flatten(0, 1)[:, None], torch.zeros_like(label)[:, None]
    )
    return predictions.reshape(*inputs.shape[:2], -1)


class UpdateState(NamedTuple):
    """What the LSTM meta-learner knows of N coordinates, besides theta."""

    state: LSTMState
    """Of the LSTM that reads gradients and losses."""
    gates: Tensor
    """i and f of the last update, (N, 2); zeros at first."""


def initial_updater(rng: np.random.Generator, *, step_size: float) -> dict[str, Tensor]:
    """Return the parameters of the learned update.

    The gates' weights are small, so the first updates are close to gradient descent.

    Args:
        rng: stream of the weights.
        step_size: that of gradient descent, in (0, 1): the initial i.
    """
    logit = math.log(step_size / (1 - step_size))
    return {
        **initial_lstm(rng, "updater", 4, UPDATER_SIZE),
        "updater/gates_hidden": uniform(rng, 0.01, UPDATER_SIZE, 2),
        "updater/gates_theta": uniform(rng, 0.01, 2),
        "updater/gates_previous": uniform(rng, 0.01, 2),
        "updater/gates_bias": torch.tensor([logit, FORGET_BIAS]),
    }


def preprocessed(x: Tensor) -> Tensor:
    """Return (log|x| / p, sign x) where |x| ≥ e^−p, else (−1, e^p x); (N,) to (N, 2).

    Ravi and Larochelle 2017, section 3.2, after Andrychowicz et al. 2016, appendix A.
    """
    # Each of the two numbers, clipped where the other case begins, is right in both cases.
    log_magnitude = x.abs().clamp(min=math.exp(-LOG_RANGE)).log() / LOG_RANGE
    sign = (math.exp(LOG_RANGE) * x).clamp(-1.0, 1.0)
    return torch.stack([log_magnitude, sign], dim=-1)


def update(
    updater: Params, theta: Tensor, gradient: Tensor, loss: Tensor, previous: UpdateState
) -> tuple[Tensor, UpdateState]:
    """One learned update f ∘ theta − i ∘ gradient of N coordinates.

    Args:
        updater: parameters of the update (see :func:`initial_updater`).
        theta: (N,).
        gradient: of the loss at theta, (N,).
        loss: at theta, for each coordinate that of its task, (N,).
        previous: state after the previous update.

    Returns:
        Theta after the update, (N,), and the state.
    """
    # The first layer reads the gradient and the loss.
    numbers = torch.cat([preprocessed(gradient), preprocessed(loss)], dim=-1)
    outputs, state = lstm(updater, "updater", numbers[:, None], previous.state)
    # The gates read its output, theta, and each its own previous value.
    gates = torch.sigmoid(
        torch.addmm(updater["updater/gates_bias"], outputs[:, 0], updater["updater/gates_hidden"])
        + updater["updater/gates_theta"] * theta[:, None]
        + updater["updater/gates_previous"] * previous.gates
    )
    i, f = gates.unbind(-1)
    return f * theta - i * gradient, UpdateState(state, gates)


def updated(
    theta: Params,
    supports: Sequence[Batch],
    loss: Callable[[Params, Batch], Tensor],
    updater: Params,
) -> list[dict[str, Tensor]]:
    """Return the stack after each learned update; ``adapt`` of maml_rl has fixed ones.

    As in the paper (section 3.3.1), no derivative passes through the gradients and losses.

    Args:
        theta: a stack of parameters, each (T, ...).
        supports: a batch per update.
        loss: the losses (T,) of a stack on a batch.
        updater: parameters of the update, shared by all tasks.
    """
    shapes = {name: value[0] for name, value in theta.items()}
    vectors = flatten(theta, batch_dims=1)
    zeros = vectors.new_zeros(1, vectors.numel(), UPDATER_SIZE)
    state = UpdateState(LSTMState(zeros, zeros), vectors.new_zeros(vectors.numel(), 2))
    stacks = []
    for support in supports:
        with torch.enable_grad():
            # Detached: the gradient and the loss are constants for the outer gradient.
            leaf = vectors.detach().requires_grad_()
            losses = loss(unflatten(leaf, shapes), support)
            (gradients,) = torch.autograd.grad(losses.sum(), leaf)
        loss_per_coordinate = losses.detach()[:, None].expand_as(vectors)
        after, state = update(
            updater, vectors.flatten(), gradients.flatten(), loss_per_coordinate.flatten(), state
        )
        vectors = after.reshape(vectors.shape)
        stacks.append(unflatten(vectors, shapes))
    return stacks
