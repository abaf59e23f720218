"Given subsets come in their order, drawn ones without end; what does not fit is refused."

import numpy as np
import pytest

from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.linear.plans import make_plan
from impsamp.linear.sources import sources_of
from impsamp.problems import LogisticRegression
from impsamp.samplers import NiceSampling
from tests.linear.helpers import B, N, features


def sources(method="svrg", draws=None, table_draws=None, seed=0, one_draw=False):
    X, y = features()
    law = NiceSampling(N, B)
    plan = make_plan(LogisticRegression(X, y, l2=0.1), method, law, one_draw=one_draw)
    return sources_of(N, plan, law, draws, table_draws, np.random.default_rng(seed))


def test_given_subsets_come_in_their_order():
    given = sources(draws=[[3, 1], [2], []])
    assert given.tables is None
    first = given.draws.take(None, 2)
    assert first.idx.tolist() == [3, 1, 2]
    assert first.ptr.tolist() == [0, 2, 3]
    assert given.draws.left == 1
    assert given.draws.take(None, 1).idx.tolist() == []
    assert given.draws.left == 0


def test_making_them_uses_no_random_number():
    rng = np.random.default_rng(5)
    X, y = features()
    law = NiceSampling(N, B)
    plan = make_plan(LogisticRegression(X, y, l2=0.1), "saga", law)
    both = sources_of(N, plan, law, None, None, rng)
    assert rng.random() == np.random.default_rng(5).random()
    assert both.draws.left == np.inf
    assert both.tables is not None
    assert both.draws.take(rng, 3).idx.size == 3 * B


def test_gradient_descent_draws_nothing():
    block = sources("gd").draws.take(None, 4)
    assert block.ptr.tolist() == [0] * 5


def test_the_second_draw_of_saga():
    with pytest.raises(InvalidArgument, match="table_draws beside draws"):
        sources("saga", draws=[[0]])
    with pytest.raises(InvalidShape, match="1 draws but 2 table_draws"):
        sources("saga", draws=[[0]], table_draws=[[0], [1]])
    assert sources("saga", draws=[[0]], one_draw=True).tables is None
