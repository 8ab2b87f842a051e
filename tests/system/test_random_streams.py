"""Streams are named by what they are for: equal for equal names, different for different ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from maml_rl.system.random_streams import Phase, RandomStreams


def draws() -> dict[tuple, tuple]:
    """The first numbers of every stream over small ranges of every part of its name."""
    out = {}
    for seed, phase, iteration in itertools.product((0, 1), Phase, (0, 1, 2)):
        streams = RandomStreams(seed, phase, iteration)
        name = (seed, phase, iteration)
        out[(*name, "tasks")] = tuple(streams.tasks().integers(2**62, size=2))
        out[(*name, "parameters")] = tuple(streams.parameters().integers(2**62, size=2))
        for step in range(3):
            out[(*name, "reset", step)] = (streams.reset_seed(step, 1),)
            for task in range(3):
                out[(*name, "actions", step, task)] = tuple(
                    streams.actions(step, task).integers(2**62, size=2)
                )
    return out


def test_every_name_has_numbers_of_its_own():
    values = list(draws().values())
    assert len(set(values)) == len(values)


def test_the_same_name_gives_the_same_numbers():
    assert draws() == draws()


def test_a_stream_starts_afresh_each_time_it_is_asked_for():
    streams = RandomStreams(3, Phase.TRAINING, 7)
    first = streams.actions(1, 2)
    expected = first.random(5)
    assert (streams.actions(1, 2).random(5) == expected).all()
    assert not (first.random(5) == expected).any()


@pytest.mark.parametrize("num_seeds", [1, 20, 800, 10_000])
def test_reset_seeds_fit_into_31_bits_and_no_two_collections_share_one(num_seeds: int) -> None:
    streams = [RandomStreams(7, Phase.TRAINING, i) for i in range(400)]
    starts = sorted(one.reset_seed(k, num_seeds) for one in streams for k in range(4))
    assert starts[0] >= 0
    assert starts[-1] + num_seeds <= 2**31
    assert min(b - a for a, b in itertools.pairwise(starts)) >= num_seeds


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_reset_seeds_seed_numpys_old_generators(seed: int) -> None:
    for phase in Phase:
        last = RandomStreams(seed, phase, 10**9).reset_seed(1000, 800) + 799
        assert np.random.RandomState(last).uniform() < 1  # refuses seeds of more than 32 bits


def test_a_collection_as_large_as_all_seeds() -> None:
    assert RandomStreams(0, Phase.TRAINING, 3).reset_seed(1, 2**31) == 0
