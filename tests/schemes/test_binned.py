"""Items by bin: moves against a vector that is assigned to, draws against every interval."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.schemes.binned import BinnedItems, _draw, _fill, _find, _homeless, _plan


def consistent(items, bins):
    "Whether `items` agree with each other and with the vector `bins`."
    n = bins.size
    count = items.sizes.size
    assert (items.bins == bins).all()
    assert (items.order[items.place] == np.arange(n)).all()
    assert (items.sizes == np.bincount(bins, minlength=count)).all()
    assert (np.diff(bins[items.order]) >= 0).all()
    assert items.starts[0] == 0 and items.starts[-1] == n


@st.composite
def moves(draw):
    n = draw(st.integers(1, 12))
    count = draw(st.integers(1, 6))
    pairs = st.tuples(st.integers(0, n - 1), st.integers(0, count - 1))
    return n, count, draw(st.lists(st.lists(pairs, min_size=1, max_size=6), max_size=6))


@settings(max_examples=150)
@given(moves())
def test_moves_are_assignments_to_a_vector(case):
    n, count, batches = case
    items = BinnedItems(n, count)
    slow = np.full(n, count - 1)
    for batch in batches:
        moved, goals = np.array(batch).T
        items.move(moved, goals)
        for i, k in batch:
            slow[i] = k
        consistent(items, slow)


def by_hand(items, moved, goals):
    "The same move in plain Python; returns what stood in the arrays before the last half."
    was = np.empty(moved.size, int)
    new = np.empty_like(items.starts)
    _find(items.place, items.starts, moved, was)
    plan = _plan(items.order, items.place, items.starts, moved, was, goals.copy(), new)
    who = _homeless(items.order, items.starts, new, moved, *plan)
    before = items.order.copy()
    _fill(items.order, items.place, items.starts, new, who, *plan)
    return before


def test_compiled_moves_leave_the_bits_of_the_plain_ones():
    rng = np.random.default_rng(0)
    fast = BinnedItems(300, 30)
    slow = BinnedItems(300, 30)
    for _ in range(20):
        moved = rng.integers(300, size=40)
        goals = rng.integers(30, size=40)
        fast.move(moved, goals)
        by_hand(slow, moved, goals)
    assert (fast.order == slow.order).all() and (fast.place == slow.place).all()


def test_all_but_the_last_half_of_a_move_leaves_everything_as_it_was():
    "So that an interrupt between two kernels does no harm."
    rng = np.random.default_rng(1)
    items = BinnedItems(60, 7)
    for _ in range(30):
        order = items.order.copy()
        before = by_hand(items, rng.integers(60, size=25), rng.integers(7, size=25))
        assert (before == order).all()


def test_only_the_net_flow_over_a_border_moves_others():
    "A hundred items change places with a hundred: nobody else moves."
    items = BinnedItems(1000, 3)
    items.fill(np.arange(1000) // 334)
    place = items.place.copy()
    up = np.arange(100)
    down = np.arange(800, 900)
    items.move(np.r_[up, down], np.r_[np.full(100, 2), np.zeros(100, int)])
    others = np.r_[100:800, 900:1000]
    assert (items.place[others] == place[others]).all()
    assert set(items.place[up]) == set(place[down])


def test_every_point_belongs_to_the_item_whose_interval_it_is_in():
    "Both ends of every interval of the distribution function, items in the order of the bins."
    rng = np.random.default_rng(1)
    items = BinnedItems(200, 12)
    items.fill(rng.integers(0, 11, 200) // 2 * 2)  # bins 1, 3, 5, ... are empty
    p = rng.lognormal(0, 2, 12)
    p[4] = 0
    law = p[items.bins] / p[items.bins].sum()
    upper = np.cumsum(law[items.order])
    lower = np.r_[0, upper[:-1]]
    possible = upper > lower
    for points in (lower + 1e-9, upper - 1e-9):
        rows, k = items.draw(p, points[possible])
        assert (rows == items.order[possible]).all()
        assert (k == items.bins[rows]).all()


@pytest.mark.parametrize("point", [0.0, 0.5, 1 - 2**-53])
def test_the_last_point_never_reaches_an_empty_or_impossible_bin(point):
    rng = np.random.default_rng(2)
    for _ in range(200):
        items = BinnedItems(7, 5)
        items.fill(rng.integers(0, 4, 7))
        p = rng.random(5) * (rng.random(5) < 0.6)
        if not (items.sizes @ p):
            continue
        rows, k = items.draw(p, np.array([point]))
        assert p[k[0]] > 0 and items.sizes[k[0]] > 0 and items.bins[rows[0]] == k[0]


def test_compiled_draws_are_the_plain_ones():
    rng = np.random.default_rng(3)
    items = BinnedItems(100, 9)
    items.fill(rng.integers(0, 9, 100))
    p = rng.random(9)
    points = rng.random(500)
    rows = np.empty(500, int)
    bins = np.empty(500, int)
    _draw(items.order, items.starts, p, points, rows, bins)
    fast = items.draw(p, points)
    assert (fast[0] == rows).all() and (fast[1] == bins).all()


def test_growing_and_one_bin():
    items = BinnedItems(3, 4)
    items.move(np.array([0, 2]), np.array([1, 0]))
    items.grow(5)
    consistent(items, np.array([1, 3, 0, 3, 3]))
    items.move(np.array([4]), np.array([1]))
    consistent(items, np.array([1, 3, 0, 3, 1]))
    assert set(items.some_of(1, np.random.default_rng(0), 50)) == {0, 4}


def test_what_is_no_order_is_refused_and_changes_nothing():
    items = BinnedItems(3, 2)
    sizes = np.array([1, 2])
    for order in ([0, 0, 1], [0, 1, 3], [-1, 0, 1]):
        with pytest.raises(InvalidArgument, match="once"):
            items.arrange(np.array(order), sizes)
    for bad in ([2, 2], [4, -1]):
        with pytest.raises(InvalidArgument):
            items.arrange(np.arange(3), np.array(bad))
    with pytest.raises(InvalidShape):
        items.arrange(np.arange(2), sizes)
    with pytest.raises(InvalidArgument):
        BinnedItems(3, 256)
    consistent(items, np.array([1, 1, 1]))


def test_memory_is_eight_bytes_an_item():
    items = BinnedItems(100_000, 162)
    arrays = [x for x in vars(items).values() if isinstance(x, np.ndarray) and x.base is None]
    assert sum(a.nbytes for a in arrays) == 8 * 100_000 + 8 * 164


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 161, 255])
def test_bins_are_found_by_halving(count):
    rng = np.random.default_rng(count)
    items = BinnedItems(400, count)
    items.fill(rng.integers(0, count, 400) // 3 * 3 % count)
    some = rng.integers(400, size=300)
    slow = np.empty(300, int)
    _find(items.place, items.starts, some, slow)
    wanted = np.searchsorted(items.starts, items.place[some], side="right") - 1
    assert (items.bins_of(some) == wanted).all() and (slow == wanted).all()
    assert (items.bins[some] == wanted).all()
