"""Streams are named by what they are for: equal for equal names, different for different ones."""

from __future__ import annotations

import itertools

from maml_rl.random_streams import Phase, RandomStreams


def draws() -> dict[tuple, tuple]:
    """The first numbers of every stream over small ranges of every part of its name."""
    out = {}
    for seed, phase, iteration in itertools.product((0, 1), Phase, (0, 1, 2)):
        streams = RandomStreams(seed, phase, iteration)
        name = (seed, phase, iteration)
        out[(*name, "tasks")] = tuple(streams.tasks().integers(2**62, size=2))
        out[(*name, "parameters")] = tuple(streams.parameters().integers(2**62, size=2))
        for step in range(3):
            out[(*name, "reset", step)] = (streams.reset_seed(step),)
            for task in range(3):
                out[(*name, "actions", step, task)] = tuple(streams.actions(step, task).integers(2**62, size=2))
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


def test_reset_seeds_are_valid_and_far_apart():
    seeds = sorted(RandomStreams(0, Phase.TRAINING, i).reset_seed(k) for i in range(200) for k in range(3))
    assert all(isinstance(seed, int) and 0 <= seed < 2**48 for seed in seeds)
    # Sub-environments count up from the seed: a batch of ten thousand must not reach into the next one's.
    assert min(b - a for a, b in itertools.pairwise(seeds)) > 10_000
