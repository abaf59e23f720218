"""One rule for randomness: explicit generators, streams by key, one coercion to numpy."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from impsamp.errors import InvalidArgument
from impsamp.randomness import (
    CounterStream,
    as_numpy_generator,
    counter_generator,
    seeded,
    uniforms,
)
from impsamp.training import SequentialStream


@pytest.mark.parametrize("size", [5, (2, 3)])
@pytest.mark.parametrize(
    "make", [np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)]
)
def test_uniforms_are_float64_in_the_unit_interval_and_repeat(make, size):
    u = uniforms(make(7), size)
    assert isinstance(u, np.ndarray)
    assert u.dtype == np.float64
    assert u.shape == np.empty(size).shape
    assert ((u >= 0) & (u < 1)).all()
    assert np.array_equal(u, uniforms(make(7), size))
    assert not np.array_equal(u, uniforms(make(8), size))


def test_uniforms_are_the_generators_own():
    numpy_own = np.random.default_rng(3).random(4)
    torch_own = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert np.array_equal(uniforms(np.random.default_rng(3), 4), numpy_own)
    assert np.array_equal(uniforms(torch.Generator().manual_seed(3), 4), torch_own.numpy())


def test_drawing_with_numpy_costs_no_torch():
    code = (
        "import sys, numpy\n"
        "from impsamp.randomness import as_numpy_generator, uniforms\n"
        "uniforms(as_numpy_generator(7), 3)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_stream_of_a_step_needs_no_step_before_it():
    first = counter_generator(7, 3)
    first.random(1000)
    assert np.array_equal(counter_generator(7, 4).random(4), counter_generator(7, 4).random(4))
    keys = [(7, 3), (7, 4), (8, 3), (3, 7), (7,), (7, 3, 1)]
    streams = {counter_generator(*key).random() for key in keys}
    assert len(streams) == len(keys)


def test_a_stream_does_not_change_with_the_kind_of_the_key():
    assert counter_generator(np.int64(7), 3.0).random() == counter_generator(7, 3).random()


def test_a_numpy_generator_is_returned_as_it_is():
    generator = np.random.default_rng(0)
    assert as_numpy_generator(generator) is generator


@pytest.mark.parametrize("seed", [7, np.int64(7)])
def test_an_int_is_a_seed(seed):
    assert as_numpy_generator(seed).random() == np.random.default_rng(7).random()


def test_a_torch_generator_seeds_one_by_a_draw_of_its_own():
    generator = torch.Generator().manual_seed(0)
    first = as_numpy_generator(generator).random()
    second = as_numpy_generator(generator).random()
    again = as_numpy_generator(torch.Generator().manual_seed(0)).random()
    assert first == again
    assert first != second


def test_none_is_a_fresh_one():
    assert as_numpy_generator(None).random() != as_numpy_generator(None).random()


@pytest.mark.parametrize(
    "generator", [1.5, "seed", True, np.random.RandomState(0)], ids=lambda g: type(g).__name__
)
def test_anything_else_is_refused_by_kind(generator):
    words = f"numpy.random.Generator or a torch.Generator, got {type(generator).__name__}"
    with pytest.raises(InvalidArgument, match=words):
        as_numpy_generator(generator)
    with pytest.raises(InvalidArgument, match=words):
        uniforms(generator, 1)


def test_a_negative_seed_is_refused():
    with pytest.raises(InvalidArgument, match="generator must be at least 0"):
        as_numpy_generator(-1)


@pytest.mark.parametrize(
    "make", [lambda: CounterStream(3), lambda: SequentialStream(np.random.default_rng(3))]
)
def test_a_stream_gives_uniforms_pools_and_one_order_an_epoch(make):
    stream = make()
    assert stream.uniforms(0, 4).shape == (4,) and 0 <= stream.uniforms(1, 4).min() < 1
    pool = stream.pool(0, 9, 4)
    assert len(set(pool)) == 4 and set(pool) <= set(range(9))
    assert sorted(stream.pool(0, 4, 4)) == [0, 1, 2, 3]
    order = stream.permutation(0, 50)
    assert sorted(order) == list(range(50)) and np.array_equal(order, stream.permutation(0, 50))
    assert not np.array_equal(order, stream.permutation(1, 50))


def test_counted_streams_do_not_depend_on_what_was_drawn_before():
    first = CounterStream(5)
    first.uniforms(0, 100)
    assert np.array_equal(first.uniforms(7, 3), CounterStream(5).uniforms(7, 3))
    assert not np.array_equal(first.uniforms(7, 3), CounterStream(6).uniforms(7, 3))


def test_every_pool_is_equally_likely():
    stream = SequentialStream(np.random.default_rng(0))
    seen = np.zeros(5)
    for step in range(2000):
        seen[stream.pool(step, 5, 2)] += 1
    assert abs(seen / 2000 - 2 / 5).max() < 4 * np.sqrt(0.4 * 0.6 / 2000)


def test_weights_from_a_seed_leave_the_global_generator_alone():
    state = torch.random.get_rng_state()
    a, b, c = (seeded(lambda: torch.nn.Linear(2, 2).weight, seed) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(state, torch.random.get_rng_state())
