"""Few-shot regression of sinusoids (Finn et al. 2017, section 5.1), without reinforcement learning.

A task is a sinusoid of unknown amplitude and phase. A network adapts to a few of its points by
gradient descent (``maml_rl.learners.maml.adapt.adapt``). Three methods learn its initial weights:
MAML, first-order MAML, and pre-training on all tasks. For comparison, two learners adapt by an
LSTM instead (``lstm_learners.py``): one updates the weights, the other remembers the points.

python examples/sine_regression.py
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from lstm_learners import answer, blank_memory, initial_recurrent, initial_updater, read, updated
from torch import Tensor, nn

from maml_rl.learners.maml.adapt import adapt
from maml_rl.policies.parameters import Params, make_stack
from maml_rl.system.torch_runtime import torch_threads

HIDDEN_SIZE = 40
NUM_LEARNED_UPDATES = 5
"""Updates of the LSTM meta-learner in training."""
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


def initial_theta(rng: np.random.Generator, settings: Settings) -> dict[str, Tensor]:
    """Return the initial parameters of the network, which do not depend on the settings.

    Weights (fan_in, fan_out) are normal with variance 2 / fan_in, biases (fan_out,) zero.
    """
    theta = {}
    sizes = [1, HIDDEN_SIZE, HIDDEN_SIZE, 1]
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weight = rng.standard_normal((fan_in, fan_out)) * math.sqrt(2 / fan_in)
        theta[f"weight_{i}"] = torch.from_numpy(weight).float()
        theta[f"bias_{i}"] = torch.zeros(fan_out)
    return theta


def with_updater(rng: np.random.Generator, settings: Settings) -> dict[str, Tensor]:
    """Return the initial parameters of the network and of its learned update.

    At first, all updates together are about one gradient step.
    """
    theta = initial_theta(rng, settings)
    step_size = settings.step_size / NUM_LEARNED_UPDATES
    return {**theta, **initial_updater(rng, step_size=step_size)}


def recurrent_theta(rng: np.random.Generator, settings: Settings) -> dict[str, Tensor]:
    """Return the initial parameters of the recurrent learner."""
    return initial_recurrent(rng, num_inputs=1, num_labels=1)


def predict(stack: Params, x: Tensor) -> Tensor:
    """Return outputs (T, N, 1) of T networks, each at its own inputs (T, N, 1)."""
    for i in range(3):
        x = torch.baddbmm(stack[f"bias_{i}"][:, None], x, stack[f"weight_{i}"])
        x = torch.relu(x) if i < 2 else x
    return x


def squared_error(stack: Params, points: Points) -> Tensor:
    """Return the mean squared error of each task, (T,)."""
    return ((predict(stack, points.x) - points.y) ** 2).mean((1, 2))


def network(theta: Params, num_tasks: int) -> dict[str, Tensor]:
    """Return a copy of the network per task, on the graph of theta: gradients are summed."""
    return {
        name: value.expand(num_tasks, *value.shape)
        for name, value in theta.items()
        if not name.startswith("updater/")
    }


def descent_loss(
    theta: Params,
    support: Points,
    query: Points,
    settings: Settings,
    *,
    num_steps: int = 1,
    first_order: bool = False,
) -> Tensor:
    """Return the query error after gradient steps, () averaged over tasks."""
    theta_prime = adapt(
        network(theta, len(query.x)),
        [support] * num_steps,
        squared_error,
        step_size=settings.step_size,
        first_order=first_order,
    )
    return squared_error(theta_prime, query).mean()


def descent_errors(theta: Params, support: Points, query: Points, step_size: float) -> list[Tensor]:
    """Return the query errors after 0, 1, ... gradient steps, all on the same few points."""
    stack = make_stack(theta, len(query.x))
    errors = [squared_error(stack, query)]
    for _ in range(max(REPORTED_STEPS)):
        stack = adapt(stack, [support], squared_error, step_size=step_size, first_order=True)
        errors.append(squared_error(stack, query))
    return errors


def update_loss(theta: Params, support: Points, query: Points, settings: Settings) -> Tensor:
    """Return the query error after the last learned update, () averaged over tasks."""
    supports = [support] * NUM_LEARNED_UPDATES
    stacks = updated(network(theta, len(query.x)), supports, squared_error, theta)
    return squared_error(stacks[-1], query).mean()


def update_errors(theta: Params, support: Points, query: Points, step_size: float) -> list[Tensor]:
    """Return the query errors after 0, 1, ... learned updates; ``step_size`` is not used."""
    stack = network(theta, len(query.x))
    stacks = updated(stack, [support] * max(REPORTED_STEPS), squared_error, theta)
    return [squared_error(stack, query) for stack in (stack, *stacks)]


def recurrent_loss(theta: Params, support: Points, query: Points, settings: Settings) -> Tensor:
    """Return the mean squared error of all predictions, those of the support points included."""
    predictions, memory = read(theta, blank_memory(theta, len(query.x)), support.x, support.y)
    predictions = torch.cat([predictions, answer(theta, memory, query.x)], dim=1)
    return ((predictions - torch.cat([support.y, query.y], dim=1)) ** 2).mean()


def recurrent_errors(
    theta: Params, support: Points, query: Points, step_size: float
) -> list[Tensor]:
    """Return the query errors before and after the points are read, which is the only step."""
    before = blank_memory(theta, len(query.x))
    _, after = read(theta, before, support.x, support.y)
    return [
        ((answer(theta, memory, query.x) - query.y) ** 2).mean((1, 2)) for memory in (before, after)
    ]


class Method(NamedTuple):
    """A method of meta-learning."""

    loss: Callable[[Params, Points, Points, Settings], Tensor]
    """Its outer loss () of theta on support and query points."""
    errors: Callable[[Params, Points, Points, float], list[Tensor]] = descent_errors
    """Query errors (T,) after 0, 1, ... steps of this size from theta on the support points."""
    initial: Callable[[np.random.Generator, Settings], dict[str, Tensor]] = initial_theta
    """Draws theta."""
    step_size_origin: Literal["setting", "chosen", "learned", "none"] = "setting"
    """A setting, chosen after training, learned in training, or there is no step size."""
    num_tasks: int | None = None
    """Tasks per meta-iteration, if not ``settings.meta_batch_size``."""
    max_gradient_norm: float = math.inf
    """The outer gradient is clipped to this norm."""


METHODS = {
    "MAML": Method(descent_loss),
    "First-order MAML": Method(partial(descent_loss, first_order=True)),
    # Fits all tasks at once, without an inner step.
    "Pretrained on all tasks": Method(
        partial(descent_loss, num_steps=0), step_size_origin="chosen"
    ),
    # One task per meta-iteration, as in its paper and unlike the rows above, because its LSTM reads
    # every coordinate of the network at every update. The authors' code clips gradients, too.
    "LSTM meta-learner": Method(
        update_loss,
        update_errors,
        with_updater,
        step_size_origin="learned",
        num_tasks=1,
        max_gradient_norm=10.0,
    ),
    "Recurrent learner": Method(
        recurrent_loss, recurrent_errors, recurrent_theta, step_size_origin="none"
    ),
}


def train(method: Method, settings: Settings) -> dict[str, Tensor]:
    """Meta-train, and return theta; tasks depend only on the seed and on their number."""
    initial = method.initial(np.random.default_rng([settings.seed, 0]), settings)
    theta = {name: value.requires_grad_() for name, value in initial.items()}
    rng = np.random.default_rng([settings.seed, 1])
    optimiser = torch.optim.Adam(theta.values(), lr=settings.learning_rate)
    for _ in range(settings.num_iterations):
        # Draw tasks and their points.
        tasks = draw_tasks(rng, method.num_tasks or settings.meta_batch_size)
        support = draw_points(rng, tasks, settings.num_shots)
        query = draw_points(rng, tasks, settings.num_queries)
        # Differentiate through adaptation.
        loss = method.loss(theta, support, query, settings)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(theta.values(), method.max_gradient_norm)
        optimiser.step()
    return {name: value.detach() for name, value in theta.items()}


def errors_while_adapting(
    method: Method, theta: Params, settings: Settings, rng: np.random.Generator, *, step_size: float
) -> np.ndarray:
    """Adapt to fresh tasks.

    Args:
        method: how to adapt.
        theta: its parameters.
        settings: of the experiment.
        rng: stream of the tasks and their points.
        step_size: of each gradient step, if the method has such.

    Returns:
        Mean squared error at 100 other points after 0, 1, ... steps, as many as the method has but
        at most max(REPORTED_STEPS); (1 + number of steps, num_test_tasks).
    """
    tasks = draw_tasks(rng, settings.num_test_tasks)
    support = draw_points(rng, tasks, settings.num_shots)
    query = draw_points(rng, tasks, 100)
    return torch.stack(method.errors(theta, support, query, step_size)).numpy()


def best_step_size(method: Method, theta: Params, settings: Settings) -> float:
    """Return the candidate with the smallest error after the last step, on tasks of its own."""

    def last_error(step_size: float) -> float:
        rng = np.random.default_rng([settings.seed, 2])
        errors = errors_while_adapting(method, theta, settings, rng, step_size=step_size)[-1]
        return float(np.nan_to_num(errors, nan=np.inf).mean())

    return min(CANDIDATE_STEP_SIZES, key=last_error)


def table_row(name: str, settings: Settings) -> str:
    """Train, and return the mean error and its 95% interval after each of the reported steps."""
    # Train.
    method = METHODS[name]
    start_s = time.perf_counter()
    theta = train(method, settings)
    trained_s = time.perf_counter() - start_s
    # Adapt to fresh tasks.
    step_size = settings.step_size
    if method.step_size_origin == "chosen":
        step_size = best_step_size(method, theta, settings)
    rng = np.random.default_rng([settings.seed, 3])
    errors = errors_while_adapting(method, theta, settings, rng, step_size=step_size)
    # Format the row.
    has_step_size = method.step_size_origin in ("setting", "chosen")
    cells = []
    for step in REPORTED_STEPS:
        if step < len(errors):
            half_width = 1.96 * errors[step].std(ddof=1) / math.sqrt(errors.shape[1])
            cells.append(f"{errors[step].mean():.2f} ± {half_width:.2f}")
        else:
            cells.append("–")
    return " | ".join(
        [
            f"{name:<23}",
            f"{step_size if has_step_size else method.step_size_origin:<9}",
            *(f"{cell:<11}" for cell in cells),
            f"{trained_s:.0f}",
        ]
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
    with torch_threads(1):  # the networks are small: a second thread would make them slower
        for name in METHODS:
            print(table_row(name, settings), flush=True)


if __name__ == "__main__":
    main()
