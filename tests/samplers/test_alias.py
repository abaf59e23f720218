"""The alias table is exact: in fractions, and to the last bits in float64."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from impsamp.samplers import AliasTable
from impsamp.samplers.alias import _fill, _pick
from impsamp.samplers.draws import compiled
from tests.samplers.helpers import rng


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40).filter(any))
def test_alias_sweep_is_exact_in_fractions(counts):
    p = np.array([Fraction(c, sum(counts)) for c in counts], dtype=object)
    n = p.size
    table = np.empty((n, 4), dtype=object)
    _fill(p, table)
    law = [Fraction(0)] * n
    for j, (threshold, alias, own, other) in enumerate(table):
        law[j] += Fraction(threshold) / n
        law[alias] += (1 - Fraction(threshold)) / n
        assert 0 <= threshold <= 1
        assert own == p[j]
        assert other == p[alias]
    assert law == list(p)


# one item takes the rounding of all
@pytest.mark.parametrize("spread", [0, 3, 12])
def test_alias_table_keeps_the_law_to_the_last_bits(spread):
    p = 10.0 ** (spread * rng(spread).random(200_000))
    p[::7] = 0
    p /= p.sum()
    law = AliasTable(p).law()
    assert (law[p == 0] == 0).all()
    assert np.allclose(law, p, rtol=p.size * 2**-51, atol=0)


# a plain running remainder is off by several 1e-9 at the last item
def test_alias_with_one_item_that_holds_nearly_everything():
    p = np.r_[1e9, rng().random(300_000), 5e3]
    p /= p.sum()
    assert np.allclose(AliasTable(p).law(), p, rtol=p.size * 2**-51, atol=0)


def test_compiled_picking_is_the_plain_python_one():
    table = AliasTable(rng(1).dirichlet(np.ones(50))).table
    u = rng(2).random((2, 30))
    found = []
    for pick in (_pick, compiled(_pick)):
        rows = np.empty(30, np.int64)
        weight = np.empty(30)
        prob = np.empty(30)
        pick(table, u, rows, weight, prob)
        found.append((rows, weight, prob))
    for slow, fast in zip(*found):
        assert (slow == fast).all()


def test_columns_by_hand():
    table = AliasTable([0.5, 0.25, 0.25]).table  # item 0 fills a quarter of the other two columns
    assert table[:, 0].tolist() == [1, 0.75, 0.75]
    assert table[:, 1].tolist() == [0, 0, 0]
    assert repr(AliasTable([0.5, 0.25, 0.25])) == "AliasTable(n=3)"
