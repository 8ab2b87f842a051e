"""Few-shot classification of handwritten digits: meta-learners by gradients, metrics and memory.

The images (8 × 8, real handwriting) come with scikit-learn; nothing is downloaded. A task is to
classify images of a few digits, with one or a few labelled images of each. Learners meta-train on
some digits and are tested on the others. All have the same trunk, tasks and outer optimiser;
those that adapt by gradients use ``maml_rl.learners.maml.adapt.adapt``, two use an LSTM
(``lstm_learners.py``). There are few classes to learn from: compare with the two baselines on
pixels, which are not trained.

python examples/digits.py
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from digit_tasks import NUM_PIXELS, Images, Tasks, draw_tasks, load_images
from lstm_learners import answer, blank_memory, initial_recurrent, initial_updater, read, updated
from torch import Tensor, nn

from maml_rl.learners.maml.adapt import adapt
from maml_rl.policies.parameters import Params, make_stack

WIDTH, NUM_INNER_STEPS, STEP_SIZE = 64, 5, 0.1
TRUNK = ("weight_0", "bias_0", "weight_1", "bias_1")
HEAD = ("weight_2", "bias_2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The experiment; each field is a flag."""

    num_iterations: int = 2000
    """Meta-iterations of each learner."""
    meta_batch_size: int = 16
    """Tasks per meta-iteration."""
    num_ways: int = 3
    """Digits in a task."""
    num_queries: int = 10
    """Query images of each digit."""
    num_orientations: int = 8
    """Orientations of training digits, 1 to 8; a rotated digit is another class (Santoro 2016)."""
    learning_rate: float = 1e-3
    """Learning rate of Adam, the outer optimiser of all learners."""
    num_test_tasks: int = 600
    """Tasks of held-out digits."""
    held_out: tuple[int, ...] = (6, 7, 8, 9)
    """Digits that appear in no training task."""
    seed: int = 1
    """Seed of the initial weights and the tasks."""


Embedding = Callable[[Params, Tensor], Tensor]
"""From a stack and images (T, N, 64) to embeddings (T, N, D)."""
Scores = Callable[[Params, Tasks], Tensor]
"""From a stack and tasks to scores (T, N, num_ways) of the query images; the highest is chosen."""


def initial_theta(rng: np.random.Generator, num_ways: int) -> dict[str, Tensor]:
    """Return the parameters of the trunk, the head and the pair score.

    Weights (fan_in, fan_out) are Glorot-uniform, biases (fan_out,) zero.
    """
    theta = {}
    sizes = {
        "0": (NUM_PIXELS, WIDTH),
        "1": (WIDTH, WIDTH),
        "2": (WIDTH, num_ways),
        "pair": (WIDTH, 1),
    }
    for name, (fan_in, fan_out) in sizes.items():
        bound = math.sqrt(6 / (fan_in + fan_out))
        weight = rng.uniform(-bound, bound, (fan_in, fan_out))
        theta[f"weight_{name}"] = torch.from_numpy(weight).float()
        theta[f"bias_{name}"] = torch.zeros(fan_out)
    return theta


def with_step_sizes(rng: np.random.Generator, num_ways: int) -> dict[str, Tensor]:
    """Return theta with a step size for each entry of the trunk and the head (Meta-SGD)."""
    theta = initial_theta(rng, num_ways)
    step_sizes = {
        f"step_size/{name}": torch.full_like(theta[name], STEP_SIZE) for name in TRUNK + HEAD
    }
    return {**theta, **step_sizes}


def with_updater(rng: np.random.Generator, num_ways: int) -> dict[str, Tensor]:
    """Return theta with a learned update (LSTM meta-learner)."""
    return {**initial_theta(rng, num_ways), **initial_updater(rng, step_size=STEP_SIZE)}


def with_recurrent(rng: np.random.Generator, num_ways: int) -> dict[str, Tensor]:
    """Return theta with an LSTM that reads embeddings and labels (recurrent learner)."""
    return {**initial_theta(rng, num_ways), **initial_recurrent(rng, WIDTH, num_ways)}


def linear(stack: Params, name: str, x: Tensor) -> Tensor:
    """Apply one layer of T networks: (T, N, fan_in) to (T, N, fan_out)."""
    return torch.baddbmm(stack[f"bias_{name}"][:, None], x, stack[f"weight_{name}"])


def embed(stack: Params, pixels: Tensor) -> Tensor:
    """Apply the trunk: embeddings (T, N, 64) of images (T, N, 64).

    There is no nonlinearity at the end. Cosines of ReLU outputs are never negative, so matching
    networks would separate classes by turning units off, until all embeddings were equal.
    """
    return linear(stack, "1", torch.relu(linear(stack, "0", pixels)))


def head_scores(stack: Params, pixels: Tensor) -> Tensor:
    """Apply the classifier (trunk, ReLU, head): scores (T, N, num_ways) of images (T, N, 64)."""
    return linear(stack, "2", torch.relu(embed(stack, pixels)))


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Return −log softmax(scores)[label], averaged over N images, (T,); scores (T, N, num_ways)."""
    return nn.functional.cross_entropy(scores.transpose(1, 2), labels, reduction="none").mean(1)


def head_loss(stack: Params, images: Images) -> Tensor:
    """Return the inner loss: the cross-entropy of the head's scores, (T,)."""
    return cross_entropy(head_scores(stack, images.pixels), images.labels)


def adapted(
    stack: Params,
    supports: Sequence[Images],
    *,
    adapts: Sequence[str] = TRUNK + HEAD,
    first_order: bool = False,
) -> dict[str, Tensor]:
    """Return ``stack`` after a step on each support batch, with its own step sizes if any."""
    step_size = {name: stack.get(f"step_size/{name}", STEP_SIZE) for name in adapts}
    return adapt(stack, supports, head_loss, step_size=step_size, first_order=first_order)


def adapted_scores(
    stack: Params, tasks: Tasks, *, adapts: Sequence[str] = TRUNK + HEAD, first_order: bool = False
) -> Tensor:
    """Return the head's scores of the query images after adaptation, (T, N, num_ways)."""
    theta_prime = adapted(
        stack, [tasks.support] * NUM_INNER_STEPS, adapts=adapts, first_order=first_order
    )
    return head_scores(theta_prime, tasks.query.pixels)


def updated_scores(stack: Params, tasks: Tasks) -> Tensor:
    """Return the head's scores of the query images after learned updates, (T, N, num_ways)."""
    theta = {name: stack[name] for name in TRUNK + HEAD}
    supports = [tasks.support] * NUM_INNER_STEPS
    return head_scores(updated(theta, supports, head_loss, shared(stack))[-1], tasks.query.pixels)


def shared(stack: Params) -> dict[str, Tensor]:
    """Return theta from a stack of equal copies, for an LSTM, which does not take a stack."""
    return {name: value[0] for name, value in stack.items()}


def recurrent_scores(stack: Params, tasks: Tasks) -> tuple[Tensor, Tensor]:
    """Return scores of the support images in the order of reading, and of the query images.

    The LSTM reads the trunk's embeddings. Each (T, N, num_ways).
    """
    support, query = (
        torch.relu(embed(stack, images.pixels)) for images in (tasks.support, tasks.query)
    )
    support = support.take_along_dim(tasks.order[:, :, None], 1)
    labels = nn.functional.one_hot(ordered_labels(tasks), tasks.num_ways).to(support.dtype)
    theta = shared(stack)
    scores, memory = read(theta, blank_memory(theta, len(tasks.digits)), support, labels)
    return scores, answer(theta, memory, query)


def ordered_labels(tasks: Tasks) -> Tensor:
    """Return the labels of the support images in the order of reading, (T, N)."""
    return tasks.support.labels.take_along_dim(tasks.order, 1)


def recurrent_loss(stack: Params, tasks: Tasks) -> Tensor:
    """Return the cross-entropy of all predictions, those of the support images included, (T,)."""
    labels = torch.cat([ordered_labels(tasks), tasks.query.labels], dim=1)
    return cross_entropy(torch.cat(recurrent_scores(stack, tasks), dim=1), labels)


def class_means(values: Tensor, labels: Tensor, num_ways: int) -> Tensor:
    """Average values over the support images of each class.

    Args:
        values: (T, M, N), N support images last.
        labels: of the support images, (T, N).
        num_ways: number of classes.

    Returns:
        Means, (T, M, num_ways).
    """
    member = nn.functional.one_hot(labels, num_ways).to(values.dtype)
    return values @ (member / member.sum(1, keepdim=True))


def prototypical_scores(stack: Params, tasks: Tasks, *, embedding: Embedding = embed) -> Tensor:
    """Return −|f(x) − c_k|², (T, N, num_ways), with c_k the mean embedding of class k.

    Snell et al. 2017, equation 2.
    """
    support = embedding(stack, tasks.support.pixels).transpose(1, 2)
    query = embedding(stack, tasks.query.pixels)
    prototypes = class_means(support, tasks.support.labels, tasks.num_ways).transpose(1, 2)
    return -((query[:, :, None] - prototypes[:, None]) ** 2).sum(-1)


def matching_scores(stack: Params, tasks: Tasks) -> Tensor:
    """Return log Σ_i a(x, x_i) y_i, (T, N, num_ways), with a the softmax of cosines.

    Vinyals et al. 2016, equation 1, without embeddings that depend on the whole support set.
    """
    support, query = (
        nn.functional.normalize(embed(stack, images.pixels), dim=-1)
        for images in (tasks.support, tasks.query)
    )
    attention = (query @ support.transpose(1, 2)).softmax(-1)
    # Classes have equally many images, so the mean is the sum up to a constant factor.
    return class_means(attention, tasks.support.labels, tasks.num_ways).log()


def pair_logits(stack: Params, tasks: Tasks) -> Tensor:
    """Return log-odds (T, N_query, N_support) that two images have the same class.

    They are linear in |f(x) − f(x_i)| (Koch et al. 2015).
    """
    support = embed(stack, tasks.support.pixels)
    query = embed(stack, tasks.query.pixels)
    distance = (query[:, :, None] - support[:, None]).abs()
    return linear(stack, "pair", distance.flatten(1, 2)).reshape(distance.shape[:3])


def siamese_scores(stack: Params, tasks: Tasks) -> Tensor:
    """Return mean log-odds over the support images of each class, (T, N, num_ways)."""
    return class_means(pair_logits(stack, tasks), tasks.support.labels, tasks.num_ways)


def pair_loss(stack: Params, tasks: Tasks) -> Tensor:
    """Return the cross-entropy of the pairs of query and support images, (T,)."""
    same = (tasks.query.labels[:, :, None] == tasks.support.labels[:, None]).float()
    losses = nn.functional.binary_cross_entropy_with_logits(
        pair_logits(stack, tasks), same, reduction="none"
    )
    return losses.mean((1, 2))


def nearest_pixels_scores(stack: Params, tasks: Tasks) -> Tensor:
    """Return −|x − x_i|², x_i the nearest support image of each class, (T, N, num_ways)."""
    distance = torch.cdist(tasks.query.pixels, tasks.support.pixels) ** 2
    other = ~nn.functional.one_hot(tasks.support.labels, tasks.num_ways).bool()
    return -distance[..., None].masked_fill(other[:, None], torch.inf).amin(2)


def expanded(theta: Params, num_tasks: int) -> dict[str, Tensor]:
    """Return a copy of theta per task, on its graph, so that gradients are summed over tasks."""
    return {name: value.expand(num_tasks, *value.shape) for name, value in theta.items()}


def meta_gradient(
    theta: Params, tasks: Tasks, *, loss: Callable[[Params, Tasks], Tensor]
) -> dict[str, Tensor]:
    """Return the gradient of the mean loss over tasks; zero for parameters that it does not use.

    Args:
        theta: parameters.
        tasks: T tasks.
        loss: from a stack and tasks to losses (T,); it may adapt the stack.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
    total = loss(expanded(leaves, len(tasks.digits)), tasks).mean()
    gradients = torch.autograd.grad(
        total, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, gradients, strict=True))


def reptile_gradient(theta: Params, tasks: Tasks) -> dict[str, Tensor]:
    """Return θ − mean_i θ'ᵢ, which the outer optimiser uses as a gradient.

    Nichol et al. 2018, section 3. Support and query images form one training set; each inner step
    uses another part of it.
    """
    parts = [
        torch.cat(pair, 1).tensor_split(NUM_INNER_STEPS, 1)
        for pair in zip(tasks.support, tasks.query, strict=True)
    ]
    batches = [Images(*part) for part in zip(*parts, strict=True)]
    theta_prime = adapted(make_stack(theta, len(tasks.digits)), batches)
    return {name: value - theta_prime[name].mean(0) for name, value in theta.items()}


class Learner(NamedTuple):
    """A method of meta-learning."""

    scores: Scores
    """How it classifies query images."""
    gradient: Callable[[Params, Tasks], dict[str, Tensor]]
    """The gradient of theta with which it meta-trains."""
    initial: Callable[[np.random.Generator, int], dict[str, Tensor]] = initial_theta
    """Draws theta, for a number of ways."""
    num_tasks: int | None = None
    """Tasks per meta-iteration, if not ``settings.meta_batch_size``."""


def by_scores(scores: Scores) -> Learner:
    """Return the learner that minimises the cross-entropy of its own scores."""

    def loss(stack: Params, tasks: Tasks) -> Tensor:
        return cross_entropy(scores(stack, tasks), tasks.query.labels)

    return Learner(scores, partial(meta_gradient, loss=loss))


LEARNERS = {
    "MAML": by_scores(adapted_scores),
    "First-order MAML": by_scores(partial(adapted_scores, first_order=True)),
    "Reptile": Learner(adapted_scores, reptile_gradient),
    "Meta-SGD": by_scores(adapted_scores)._replace(initial=with_step_sizes),
    "ANIL": by_scores(partial(adapted_scores, adapts=HEAD)),
    # One task per meta-iteration, as in its paper and unlike the other rows, because its LSTM reads
    # every coordinate of the network at every update.
    "LSTM meta-learner": by_scores(updated_scores)._replace(initial=with_updater, num_tasks=1),
    "Recurrent learner": Learner(
        lambda stack, tasks: recurrent_scores(stack, tasks)[1],
        partial(meta_gradient, loss=recurrent_loss),
        with_recurrent,
    ),
    "Prototypical networks": by_scores(prototypical_scores),
    "Matching networks": by_scores(matching_scores),
    "Siamese networks": Learner(siamese_scores, partial(meta_gradient, loss=pair_loss)),
}
BASELINES: dict[str, Scores] = {
    "Nearest image in pixels": nearest_pixels_scores,
    "Nearest mean in pixels": partial(prototypical_scores, embedding=lambda stack, pixels: pixels),
}


def train(
    learner: Learner, images: np.ndarray, num_shots: int, settings: Settings
) -> dict[str, Tensor]:
    """Meta-train on the digits that are not held out; tasks depend only on the seed."""
    digits = [digit for digit in range(10) if digit not in settings.held_out]
    theta = learner.initial(np.random.default_rng([settings.seed, 0]), settings.num_ways)
    rng = np.random.default_rng([settings.seed, 1])
    optimiser = torch.optim.Adam(theta.values(), lr=settings.learning_rate)
    for _ in range(settings.num_iterations):
        tasks = draw_tasks(
            rng,
            images,
            digits=digits,
            num_tasks=learner.num_tasks or settings.meta_batch_size,
            num_ways=settings.num_ways,
            num_shots=num_shots,
            num_queries=settings.num_queries,
            num_orientations=settings.num_orientations,
        )
        for name, gradient in learner.gradient(theta, tasks).items():
            theta[name].grad = gradient
        optimiser.step()
    return theta


def accuracy(
    scores: Scores, theta: Params, images: np.ndarray, num_shots: int, settings: Settings
) -> str:
    """Return the mean accuracy (%) and its 95% interval on tasks of the held-out digits."""
    rng = np.random.default_rng([settings.seed, 2])
    tasks = draw_tasks(
        rng,
        images,
        digits=settings.held_out,
        num_tasks=settings.num_test_tasks,
        num_ways=settings.num_ways,
        num_shots=num_shots,
        num_queries=settings.num_queries,
        num_orientations=1,
    )
    # In blocks, because the LSTM meta-learner needs about 10 MB per task.
    answers = torch.cat(
        [
            scores(make_stack(theta, len(block.digits)), block).argmax(-1)
            for block in tasks.blocks(50)
        ]
    )
    per_task = 100 * (answers == tasks.query.labels).double().mean(1)
    half_width = 1.96 * float(per_task.std()) / math.sqrt(len(per_task))
    return f"{float(per_task.mean()):.1f} ± {half_width:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; each row as soon as its learner is trained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field in dataclasses.fields(Settings):
        several = (
            {"nargs": "+", "type": int}
            if field.name == "held_out"
            else {"type": type(field.default)}
        )
        parser.add_argument(f"--{field.name}", default=field.default, **several)
    settings = Settings(**vars(parser.parse_args(arguments)))
    images = load_images()
    # The header and the baselines, which are not trained.
    print(f"Accuracy (%) on {settings.num_test_tasks} tasks of held-out digits; {settings}")
    print(f"{'method':<23} | 1 shot      | 5 shots     | training (s)")
    chance = f"{100 / settings.num_ways:.1f}"
    print(f"{'Chance':<23} | {chance:<11} | {chance:<11} | 0")
    for name, scores in BASELINES.items():
        cells = [
            accuracy(scores, {"none": torch.zeros(())}, images, shots, settings) for shots in (1, 5)
        ]
        print(f"{name:<23} | {cells[0]:<11} | {cells[1]:<11} | 0")
    # Train and test each learner.
    for name, learner in LEARNERS.items():
        start_s = time.perf_counter()
        thetas = {shots: train(learner, images, shots, settings) for shots in (1, 5)}
        trained_s = time.perf_counter() - start_s
        cells = [
            accuracy(learner.scores, theta, images, shots, settings)
            for shots, theta in thetas.items()
        ]
        print(f"{name:<23} | {cells[0]:<11} | {cells[1]:<11} | {trained_s:.0f}", flush=True)


if __name__ == "__main__":
    main()
