"""Few-shot regression of sinusoids (Finn et al. 2017, section 5.1), without reinforcement learning.

A task is a sinusoid of unknown amplitude and phase. A network adapts to a few of its points by
gradient descent (``maml_rl.learners.maml.adapt.adapt``). Three methods learn its initial weights:
MAML, first-order MAML, and pre-training on all tasks.

python examples/sine_regression.py
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maml_rl.learners.maml.adapt import adapt
from maml_rl.policies.parameters import Params, make_stack

Method = Literal["MAML", "First-order MAML", "Pretrained on all tasks"]
METHODS: tuple[Method, ...] = ("MAML", "First-order MAML", "Pretrained on all tasks")
HIDDEN_SIZE = 40
REPORTED_STEPS = (0, 1, 5, 10)
"""Numbers of gradient steps after which the error is reported."""
CANDIDATE_STEP_SIZES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
"""Step sizes to choose from for pre-trained weights, whose training involves no step size."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The experiment; each field is a flag."""

    num_iterations: int = 30_000
    """Meta-iterations; 70000 in the paper."""
    meta_batch_size: int = 25
    """Tasks per meta-iteration."""
    num_shots: int = 5
    """Points of a task for adaptation."""
    num_queries: int = 10
    """Points of a task for the outer loss."""
    step_size: float = 0.01
    """Step size of the inner step."""
    learning_rate: float = 1e-3
    """Learning rate of Adam, the outer optimiser."""
    num_test_tasks: int = 600
    """Fresh tasks for the table."""
    seed: int = 1
    """Seed of the initial weights and the tasks."""


class Tasks(NamedTuple):
    """T sinusoids y = amplitude · sin(x − phase), each field (T, 1, 1)."""

    amplitude: np.ndarray
    phase: np.ndarray


class Points(NamedTuple):
    """N points of each of T sinusoids, ``x`` and ``y`` (T, N, 1)."""

    x: Tensor
    y: Tensor


def draw_tasks(rng: np.random.Generator, num_tasks: int) -> Tasks:
    """Draw amplitudes uniform in [0.1, 5] and phases uniform in [0, π]."""
    shape = (num_tasks, 1, 1)
    return Tasks(rng.uniform(0.1, 5.0, shape), rng.uniform(0.0, math.pi, shape))


def draw_points(rng: np.random.Generator, tasks: Tasks, num_points: int) -> Points:
    """Draw points of each sinusoid, x uniform in [−5, 5]."""
    x = rng.uniform(-5.0, 5.0, (len(tasks.amplitude), num_points, 1))
    y = tasks.amplitude * np.sin(x - tasks.phase)
    return Points(torch.from_numpy(x).float(), torch.from_numpy(y).float())


def initial_theta(rng: np.random.Generator) -> dict[str, Tensor]:
    """Return initial parameters, which require gradients.

    Weights (fan_in, fan_out) are normal with variance 2 / fan_in, biases (fan_out,) zero.
    """
    theta = {}
    sizes = [1, HIDDEN_SIZE, HIDDEN_SIZE, 1]
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weight = rng.standard_normal((fan_in, fan_out)) * math.sqrt(2 / fan_in)
        theta[f"weight_{i}"] = torch.from_numpy(weight).float().requires_grad_()
        theta[f"bias_{i}"] = torch.zeros(fan_out, requires_grad=True)
    return theta


def predict(stack: Params, x: Tensor) -> Tensor:
    """Return outputs (T, N, 1) of T networks, each at its own inputs (T, N, 1)."""
    for i in range(3):
        x = torch.baddbmm(stack[f"bias_{i}"][:, None], x, stack[f"weight_{i}"])
        x = torch.relu(x) if i < 2 else x
    return x


def squared_error(stack: Params, points: Points) -> Tensor:
    """Return the mean squared error of each task, (T,)."""
    return ((predict(stack, points.x) - points.y) ** 2).mean((1, 2))


def meta_loss(
    theta: Params, supports: Sequence[Points], query: Points, *, step_size: float, first_order: bool
) -> Tensor:
    """Return the query error after a step on each support batch, () averaged over tasks."""
    # One copy per task, on the graph of theta, so that gradients are summed over tasks.
    stack = {name: value.expand(len(query.x), *value.shape) for name, value in theta.items()}
    theta_prime = adapt(
        stack, supports, squared_error, step_size=step_size, first_order=first_order
    )
    return squared_error(theta_prime, query).mean()


def train(method: Method, settings: Settings) -> dict[str, Tensor]:
    """Meta-train; tasks depend only on the seed, not on the method.

    Args:
        method: pre-training has no inner step, so it fits all tasks at once.
        settings: of the experiment.

    Returns:
        The initial parameters for a new task.
    """
    theta = initial_theta(np.random.default_rng([settings.seed, 0]))
    rng = np.random.default_rng([settings.seed, 1])
    optimiser = torch.optim.Adam(theta.values(), lr=settings.learning_rate)
    for _ in range(settings.num_iterations):
        # Draw tasks and their points.
        tasks = draw_tasks(rng, settings.meta_batch_size)
        support = draw_points(rng, tasks, settings.num_shots)
        query = draw_points(rng, tasks, settings.num_queries)
        # Differentiate through adaptation.
        supports = [] if method == "Pretrained on all tasks" else [support]
        first_order = method == "First-order MAML"
        loss = meta_loss(
            theta, supports, query, step_size=settings.step_size, first_order=first_order
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: value.detach() for name, value in theta.items()}


def errors_while_adapting(
    theta: Params, settings: Settings, rng: np.random.Generator, *, step_size: float
) -> np.ndarray:
    """Adapt to fresh tasks, all steps on the same few points.

    Args:
        theta: initial parameters.
        settings: of the experiment.
        rng: stream of the tasks and their points.
        step_size: of each gradient step.

    Returns:
        Mean squared error at 100 other points after 0, 1, ... steps,
        (1 + max(REPORTED_STEPS), num_test_tasks).
    """
    tasks = draw_tasks(rng, settings.num_test_tasks)
    support = draw_points(rng, tasks, settings.num_shots)
    query = draw_points(rng, tasks, 100)
    stack = make_stack(theta, settings.num_test_tasks)
    errors = [squared_error(stack, query)]
    for _ in range(max(REPORTED_STEPS)):
        stack = adapt(stack, [support], squared_error, step_size=step_size, first_order=True)
        errors.append(squared_error(stack, query))
    return torch.stack(errors).numpy()


def best_step_size(theta: Params, settings: Settings) -> float:
    """Return the candidate with the smallest error after the last step, on tasks of its own."""

    def last_error(step_size: float) -> float:
        rng = np.random.default_rng([settings.seed, 2])
        errors = errors_while_adapting(theta, settings, rng, step_size=step_size)[-1]
        return float(np.nan_to_num(errors, nan=np.inf).mean())

    return min(CANDIDATE_STEP_SIZES, key=last_error)


def table_row(method: Method, settings: Settings) -> str:
    """Train, and return the mean error and its 95% interval after each of the reported steps."""
    # Train.
    start_s = time.perf_counter()
    theta = train(method, settings)
    trained_s = time.perf_counter() - start_s
    # Adapt to fresh tasks.
    pretrained = method == "Pretrained on all tasks"
    step_size = best_step_size(theta, settings) if pretrained else settings.step_size
    rng = np.random.default_rng([settings.seed, 3])
    errors = errors_while_adapting(theta, settings, rng, step_size=step_size)[list(REPORTED_STEPS)]
    # Format the row.
    half_widths = 1.96 * errors.std(1, ddof=1) / math.sqrt(errors.shape[1])
    cells = [
        f"{mean:.2f} ± {half:.2f}" for mean, half in zip(errors.mean(1), half_widths, strict=True)
    ]
    return " | ".join(
        [f"{method:<23}", f"{step_size:<9}", *(f"{cell:<11}" for cell in cells), f"{trained_s:.0f}"]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; each row as soon as its method is trained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field in dataclasses.fields(Settings):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    settings = Settings(**vars(parser.parse_args(arguments)))
    print(
        f"Mean squared error on {settings.num_test_tasks} fresh tasks, {settings.num_shots} "
        f"points each; {settings}"
    )
    steps = [f"{count} steps" for count in REPORTED_STEPS]
    print(
        " | ".join(
            [f"{'method':<23}", "step size", *(f"{step:<11}" for step in steps), "training (s)"]
        )
    )
    for method in METHODS:
        print(table_row(method, settings), flush=True)


if __name__ == "__main__":
    main()
