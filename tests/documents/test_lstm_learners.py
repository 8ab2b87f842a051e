"""The learners of examples/lstm_learners.py, and how the examples use them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers.scripts import load_script
from torch import Tensor

from maml_rl.learners.maml.adapt import adapt

learners = load_script("examples/lstm_learners.py")  # the others import it by this name
digit_tasks = load_script("examples/digit_tasks.py")
sine = load_script("examples/sine_regression.py")
digits = load_script("examples/digits.py")

NUM_TASKS, NUM_UPDATES = 2, 4


def _double(theta: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() for name, value in theta.items()}


def _loss(stack: dict[str, Tensor], batch: Tensor) -> Tensor:
    """Loss (T,) with a Hessian that is not constant, on inputs (T, N, 3)."""
    outputs = torch.tanh(batch @ stack["weight"]) + stack["bias"][:, None]
    return (outputs**2).sum((1, 2))


@pytest.fixture
def stack() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(NUM_TASKS, 3, 2, generator=generator, dtype=torch.float64),
        "bias": torch.randn(NUM_TASKS, 2, generator=generator, dtype=torch.float64),
    }


@pytest.fixture
def supports() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(NUM_UPDATES, NUM_TASKS, 5, 3, generator=generator, dtype=torch.float64))


@pytest.fixture
def updater() -> dict[str, Tensor]:
    """Parameters far from their initial values: the gates depend on all that they read."""
    rng = np.random.default_rng(2)
    initial = _double(learners.initial_updater(rng, step_size=0.1))
    return {
        name: value + 0.3 * torch.from_numpy(rng.standard_normal(value.shape))
        for name, value in initial.items()
    }


@pytest.mark.parametrize("x", [0.0, 3e-5, -3e-5, math.exp(-10), -0.02, 1.0, 500.0])
def test_preprocessing(x: float) -> None:
    if abs(x) >= math.exp(-10):
        expected = [math.log(abs(x)) / 10, math.copysign(1.0, x)]
    else:
        expected = [-1.0, math.exp(10) * x]
    actual = learners.preprocessed(torch.tensor([x], dtype=torch.float64))
    torch.testing.assert_close(actual, torch.tensor([expected], dtype=torch.float64))


def test_learned_update_with_fixed_gates_is_gradient_descent(
    stack: dict[str, Tensor], supports: list[Tensor]
) -> None:
    step_size = 0.07
    updater = _double(learners.initial_updater(np.random.default_rng(0), step_size=step_size))
    for name in ("hidden", "theta", "previous"):
        updater[f"updater/gates_{name}"].zero_()
    # In float64 the logistic function of 40 is 1.
    updater["updater/gates_bias"] = torch.tensor(
        [math.log(step_size / (1 - step_size)), 40.0], dtype=torch.float64
    )
    stacks = learners.updated(stack, supports, _loss, updater)
    for step in range(NUM_UPDATES):
        expected = adapt(stack, supports[: step + 1], _loss, step_size=step_size, first_order=True)
        torch.testing.assert_close(stacks[step], expected, rtol=1e-13, atol=1e-13)


def test_initial_update_is_close_to_gradient_descent(
    stack: dict[str, Tensor], supports: list[Tensor]
) -> None:
    updater = _double(learners.initial_updater(np.random.default_rng(0), step_size=0.05))
    (end,) = learners.updated(stack, supports[:1], _loss, updater)
    expected = adapt(stack, supports[:1], _loss, step_size=0.05, first_order=True)
    torch.testing.assert_close(end, expected, rtol=0.1, atol=0.02)


def _by_equations(
    updater: dict[str, Tensor], theta: float, readings: list[tuple[float, float]]
) -> list[float]:
    """One coordinate by the equations, from the gradient and the loss of each update."""
    weights = {name.removeprefix("updater/"): value.numpy() for name, value in updater.items()}

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    def pair(x: float) -> list[float]:
        small = abs(x) < math.exp(-10)
        return [-1.0, math.exp(10) * x] if small else [math.log(abs(x)) / 10, math.copysign(1, x)]

    hidden, cell, previous = np.zeros(20), np.zeros(20), np.zeros(2)
    path = []
    for gradient, loss in readings:
        pre = weights["weight_input"] @ np.array([*pair(gradient), *pair(loss)])
        pre += weights["weight_hidden"] @ hidden + weights["bias_input"] + weights["bias_hidden"]
        input_gate, forget_gate, candidate, output_gate = pre.reshape(4, 20)
        cell = sigmoid(forget_gate) * cell + sigmoid(input_gate) * np.tanh(candidate)
        hidden = sigmoid(output_gate) * np.tanh(cell)
        i, f = previous = sigmoid(
            hidden @ weights["gates_hidden"]
            + weights["gates_theta"] * theta
            + weights["gates_previous"] * previous
            + weights["gates_bias"]
        )
        theta = f * theta - i * gradient
        path.append(theta)
    return path


def _readings(
    stacks: list[dict[str, Tensor]], supports: list[Tensor]
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield the gradient and the losses (T,) at each stack."""
    for values, support in zip(stacks, supports, strict=True):
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        losses = _loss(leaves, support)
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
        yield dict(zip(leaves, gradients, strict=True)), losses.detach()


def test_learned_updates_follow_the_equations(
    stack: dict[str, Tensor], supports: list[Tensor], updater: dict[str, Tensor]
) -> None:
    stacks = learners.updated(stack, supports, _loss, updater)
    readings = list(_readings([stack, *stacks[:-1]], supports))
    for name in stack:
        for index in np.ndindex(*stack[name].shape):
            path = _by_equations(
                updater,
                float(stack[name][index]),
                [(float(grad[name][index]), float(losses[index[0]])) for grad, losses in readings],
            )
            actual = [float(after[name][index]) for after in stacks]
            np.testing.assert_allclose(actual, path, rtol=1e-10)


def test_meta_gradient_with_gradients_and_losses_as_constants(
    stack: dict[str, Tensor], supports: list[Tensor], updater: dict[str, Tensor]
) -> None:
    """Against finite differences of the updates on gradients and losses that were recorded."""
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(NUM_TASKS, 8, generator=generator, dtype=torch.float64)
    point = {**updater, **stack}
    direction = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in point.items()
    }

    def outer(ends: dict[str, Tensor]) -> Tensor:
        return (torch.cat([value.flatten(1) for value in ends.values()], 1) * target).sum()

    # By autograd, along the direction.
    leaves = {name: value.clone().requires_grad_() for name, value in point.items()}
    stacks = learners.updated({name: leaves[name] for name in stack}, supports, _loss, leaves)
    outer(stacks[-1]).backward()
    by_autograd = sum(float((leaves[name].grad * direction[name]).sum()) for name in point)
    # By finite differences; what the cell reads is recorded once, and so stays constant.
    readings = list(_readings([stack, *stacks[:-1]], supports))

    def outer_at(step: float, *, constant: bool) -> float:
        moved = {name: value + step * direction[name] for name, value in point.items()}
        theta = {name: moved[name] for name in stack}
        if not constant:
            return float(outer(learners.updated(theta, supports, _loss, moved)[-1]))
        ends = {}
        for name, value in theta.items():
            coordinates = value.flatten()
            zeros = coordinates.new_zeros(1, len(coordinates), learners.UPDATER_SIZE)
            state = learners.UpdateState(
                learners.LSTMState(zeros, zeros), coordinates.new_zeros(len(coordinates), 2)
            )
            for gradients, losses in readings:
                loss = losses.repeat_interleave(len(coordinates) // NUM_TASKS)
                coordinates, state = learners.update(
                    moved, coordinates, gradients[name].flatten(), loss, state
                )
            ends[name] = coordinates.reshape(value.shape)
        return float(outer(ends))

    size = 1e-5
    constant, full = (
        (outer_at(size, constant=constant) - outer_at(-size, constant=constant)) / (2 * size)
        for constant in (True, False)
    )
    assert by_autograd == pytest.approx(constant, rel=1e-7)
    assert by_autograd != pytest.approx(full, rel=1e-2)  # which depends on second derivatives


@pytest.fixture
def recurrent() -> dict[str, Tensor]:
    """Parameters with 3 inputs and 2 labels."""
    return _double(learners.initial_recurrent(np.random.default_rng(0), 3, 2))


@pytest.fixture
def points() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (T, 6, 3), labels (T, 6, 2) and queries (T, 4, 3)."""
    generator = torch.Generator().manual_seed(4)
    shapes = [(NUM_TASKS, 6, 3), (NUM_TASKS, 6, 2), (NUM_TASKS, 4, 3)]
    inputs, labels, queries = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return inputs, labels, queries


def _lstm_of_torch(theta: dict[str, Tensor], steps: Tensor) -> Tensor:
    """Predictions of ``torch.nn.LSTM`` and a linear layer from their inputs (T, N, ...)."""
    names = ("weight_input", "weight_hidden", "bias_input", "bias_hidden")
    module = torch.nn.LSTM(steps.shape[-1], 200, batch_first=True, dtype=steps.dtype)
    with torch.no_grad():
        for parameter, name in zip(module.parameters(), names, strict=True):
            parameter.copy_(theta[f"recurrent/{name}"])
        outputs, _ = module(steps)
        return outputs @ theta["recurrent/weight_output"] + theta["recurrent/bias_output"]


def _all_predictions(theta: dict[str, Tensor], x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
    """Predictions of the points and of each query, from one whole sequence for each query."""
    late = torch.cat([torch.zeros_like(y[:, :1]), y], 1)
    columns = []
    for query in queries.unbind(1):
        sequence = torch.cat([torch.cat([x, query[:, None]], 1), late], -1)
        columns.append(_lstm_of_torch(theta, sequence))
    return torch.cat([columns[0][:, :-1], *(column[:, -1:] for column in columns)], 1)


@pytest.mark.parametrize("t", range(6))
def test_a_label_is_read_one_step_late(
    recurrent: dict[str, Tensor], points: tuple[Tensor, Tensor, Tensor], t: int
) -> None:
    inputs, labels, queries = points
    changed = labels.clone()
    changed[:, t] += 1.0

    def predictions(labels: Tensor) -> Tensor:
        """Of the points, and of one query as if it was the next of them."""
        blank = learners.blank_memory(recurrent, NUM_TASKS)
        of_points, memory = learners.read(recurrent, blank, inputs, labels)
        return torch.cat([of_points, learners.answer(recurrent, memory, queries[:, :1])], 1)

    before, after = predictions(labels), predictions(changed)
    assert torch.equal(before[:, : t + 1], after[:, : t + 1])
    assert ((before - after)[:, t + 1].abs() > 1e-4).all()


def test_recurrent_predictions_are_those_of_whole_sequences(
    recurrent: dict[str, Tensor], points: tuple[Tensor, Tensor, Tensor]
) -> None:
    inputs, labels, queries = points
    blank = learners.blank_memory(recurrent, NUM_TASKS)
    of_points, memory = learners.read(recurrent, blank, inputs, labels)
    of_queries = learners.answer(recurrent, memory, queries)
    torch.testing.assert_close(
        torch.cat([of_points, of_queries], 1), _all_predictions(recurrent, *points)
    )


def test_points_can_be_read_in_parts(
    recurrent: dict[str, Tensor], points: tuple[Tensor, Tensor, Tensor]
) -> None:
    inputs, labels, _ = points
    memory = learners.blank_memory(recurrent, NUM_TASKS)
    _, at_once = learners.read(recurrent, memory, inputs, labels)
    for part in (slice(0, 2), slice(2, 6)):
        _, memory = learners.read(recurrent, memory, inputs[:, part], labels[:, part])
    torch.testing.assert_close(memory, at_once)
    assert torch.equal(memory.label, labels[:, -1])


def test_query_predictions_do_not_depend_on_each_other(
    recurrent: dict[str, Tensor], points: tuple[Tensor, Tensor, Tensor]
) -> None:
    inputs, labels, queries = points
    blank = learners.blank_memory(recurrent, NUM_TASKS)
    _, memory = learners.read(recurrent, blank, inputs, labels)
    together = learners.answer(recurrent, memory, queries)
    changed = queries.clone()
    changed[:, 1] += 1.0
    difference = (learners.answer(recurrent, memory, changed) - together).abs().amax((0, 2))
    assert difference[1] > 1e-3
    assert (difference[[0, 2, 3]] == 0).all()


def test_recurrent_loss_of_sinusoids() -> None:
    """It averages over support and query points."""
    rng = np.random.default_rng(5)
    theta = sine.recurrent_theta(rng, sine.Settings())
    tasks = sine.draw_tasks(rng, NUM_TASKS)
    support, query = sine.draw_points(rng, tasks, 5), sine.draw_points(rng, tasks, 10)
    predictions = _all_predictions(theta, support.x, support.y, query.x)
    expected = ((predictions - torch.cat([support.y, query.y], 1)) ** 2).mean()
    loss = sine.recurrent_loss(theta, support, query, sine.Settings())
    torch.testing.assert_close(loss, expected)


def _digit_tasks(num_tasks: int) -> object:
    return digit_tasks.draw_tasks(
        np.random.default_rng(6),
        digit_tasks.load_images(),
        digits=(0, 1, 2, 3),
        num_tasks=num_tasks,
        num_ways=3,
        num_shots=2,
        num_queries=4,
        num_orientations=1,
    )


def test_digits_are_read_in_random_order() -> None:
    tasks = _digit_tasks(200)
    assert torch.equal(tasks.order.sort(-1).values, torch.arange(6).expand(200, 6))
    labels = digits.ordered_labels(tasks)
    for position in range(6):
        counts = labels[:, position].bincount(minlength=3)
        assert (counts > 40).all(), position  # of 200 tasks; 67 are expected


def test_recurrent_loss_of_digits() -> None:
    """It reads the trunk's embeddings in random order, and averages over all images."""
    theta, tasks = digits.with_recurrent(np.random.default_rng(0), 3), _digit_tasks(NUM_TASKS)
    stack = digits.expanded(theta, NUM_TASKS)
    support, labels = (
        torch.stack([x[i, tasks.order[i]] for i in range(NUM_TASKS)]) for x in tasks.support
    )
    predictions = _all_predictions(
        theta,
        torch.relu(digits.embed(stack, support)),
        torch.eye(3)[labels],
        torch.relu(digits.embed(stack, tasks.query.pixels)),
    )
    log_probabilities = predictions.log_softmax(-1)
    targets = torch.cat([labels, tasks.query.labels], 1)
    expected = -log_probabilities.gather(-1, targets[..., None]).mean((1, 2))
    torch.testing.assert_close(digits.recurrent_loss(stack, tasks), expected)


def test_blocks_of_tasks_are_all_tasks() -> None:
    tasks = _digit_tasks(7)
    blocks = list(tasks.blocks(3))
    assert [len(block.digits) for block in blocks] == [3, 3, 1]
    for field in ("digits", "order"):
        joined = np.concatenate([np.asarray(getattr(block, field)) for block in blocks])
        np.testing.assert_array_equal(joined, np.asarray(getattr(tasks, field)))
    for part in ("support", "query"):
        for index in range(2):
            joined = torch.cat([getattr(block, part)[index] for block in blocks])
            assert torch.equal(joined, getattr(tasks, part)[index])


@pytest.mark.parametrize(("name", "num_tasks"), [("LSTM meta-learner", 1), ("MAML", 3)])
def test_tasks_per_meta_iteration(name: str, num_tasks: int) -> None:
    sizes = []

    def gradient(theta: dict[str, Tensor], tasks: object) -> dict[str, Tensor]:
        sizes.append(len(tasks.digits))
        return {name: torch.zeros_like(value) for name, value in theta.items()}

    settings = digits.Settings(num_iterations=2, meta_batch_size=3)
    learner = digits.LEARNERS[name]._replace(gradient=gradient)
    digits.train(learner, digit_tasks.load_images(), 1, settings)
    assert sizes == [num_tasks] * 2


@pytest.mark.parametrize("name", ["LSTM meta-learner", "Recurrent learner"])
def test_all_parts_of_a_learner_learn(name: str) -> None:
    theta = digits.train(
        digits.LEARNERS[name],
        digit_tasks.load_images(),
        1,
        digits.Settings(num_iterations=1, meta_batch_size=2, num_queries=2),
    )
    initial = digits.LEARNERS[name].initial(np.random.default_rng([1, 0]), 3)
    used = digits.TRUNK + (digits.HEAD if name == "LSTM meta-learner" else ())
    for parameter, value in theta.items():
        learns = parameter in used or "/" in parameter
        assert torch.equal(value, initial[parameter]) != learns, parameter
