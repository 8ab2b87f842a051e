"""Few-shot tasks of handwritten digits, for ``digits.py``.

The images (8 × 8, real handwriting) come with scikit-learn; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

NUM_PIXELS = 64


class Images(NamedTuple):
    """N images of each of T tasks."""

    pixels: Tensor
    """(T, N, 64) in [0, 1]."""
    labels: Tensor
    """(T, N) int64: class within the task."""


class Tasks(NamedTuple):
    """T tasks."""

    support: Images
    """Labelled images to adapt with."""
    query: Images
    """Images to classify."""
    digits: np.ndarray
    """(T, num_ways): the digit of each label."""
    order: Tensor
    """(T, N): the support images in random order, for learners that read them one by one."""

    @property
    def num_ways(self) -> int:
        """Digits in a task."""
        return self.digits.shape[1]

    def blocks(self, size: int) -> Iterator[Tasks]:
        """Yield these tasks in blocks of at most ``size``."""
        for start in range(0, len(self.digits), size):
            block = slice(start, start + size)
            yield Tasks(
                Images(self.support.pixels[block], self.support.labels[block]),
                Images(self.query.pixels[block], self.query.labels[block]),
                self.digits[block],
                self.order[block],
            )


def load_images() -> np.ndarray:
    """Return M images of each digit in 8 orientations, (10, 8, M, 64) in [0, 1].

    M is the number of images of the rarest digit. Orientation 0 is upright; the others are quarter
    turns and mirror images, which serve as other characters.
    """
    data = load_digits()
    by_digit = [data.images[data.target == digit] for digit in range(10)]
    num_images = min(len(images) for images in by_digit)
    upright = np.stack([images[:num_images] for images in by_digit]).astype(np.float32) / 16
    turned = [np.rot90(upright, quarters, axes=(2, 3)) for quarters in range(4)]
    orientations = np.stack([*turned, *(images[..., ::-1] for images in turned)], axis=1)
    return orientations.reshape(*orientations.shape[:3], NUM_PIXELS)


def draw_tasks(
    rng: np.random.Generator,
    images: np.ndarray,
    *,
    digits: Sequence[int],
    num_tasks: int,
    num_ways: int,
    num_shots: int,
    num_queries: int,
    num_orientations: int,
) -> Tasks:
    """Draw tasks: digits in random order, which determines their labels, and images of each.

    Args:
        rng: stream of the tasks.
        images: of every digit in every orientation, (10, 8, M, 64).
        digits: to choose from.
        num_tasks: T.
        num_ways: digits in a task.
        num_shots: support images of each digit.
        num_queries: query images of each digit.
        num_orientations: number of orientations to choose from; with 1, digits are upright.
    """
    per_digit = num_shots + num_queries
    # Draw digits, their orientations, and images without replacement.
    chosen = rng.permuted(np.tile(digits, (num_tasks, 1)), axis=1)[:, :num_ways]
    orientation = rng.integers(num_orientations, size=chosen.shape)
    which = rng.random((num_tasks, num_ways, images.shape[2])).argsort(-1)[:, :, :per_digit]
    pixels = torch.from_numpy(images[chosen[:, :, None], orientation[:, :, None], which])
    labels = torch.arange(num_ways)[None, :, None].expand(num_tasks, num_ways, per_digit)

    def part(start: int, stop: int) -> Images:
        # Interleave the digits: any num_ways consecutive images have one of each.
        return Images(
            *(x[:, :, start:stop].transpose(1, 2).flatten(1, 2) for x in (pixels, labels))
        )

    # From a stream of its own, so that it leaves the images of later tasks as they are.
    order = rng.spawn(1)[0].random((num_tasks, num_ways * num_shots)).argsort(-1)
    return Tasks(part(0, num_shots), part(num_shots, per_digit), chosen, torch.from_numpy(order))
