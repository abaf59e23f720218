"""SAGA's own: the table, the second draw and its size, the memory it refuses, the old keyword."""

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.errors import InvalidArgument
from impsamp.linear import make_plan
from impsamp.optimizers import SAGA
from impsamp.optimizers.saga import _default_table_size
from impsamp.problems import LogisticRegression
from impsamp.samplers import (
    ImportanceBatchSampler,
    IndependentSampling,
    NiceSampling,
    SerialSampling,
    SystematicSampling,
)
from impsamp.theory import minibatch_probabilities
from tests.optimizers.helpers import SAMPLINGS, Draw, Fixed, N, P, grad_items, make

GENERATOR = np.random.default_rng(1)


def saga(sampling, **kw):
    "A SAGA of one parameter that is not stepped."
    x = [nn.Parameter(torch.zeros(1))]
    return SAGA(x, sampling, lr=0.1, generator=np.random.default_rng(0), **kw)


def test_saga_second_draw_is_uniform_and_moves_the_table():
    x, opt, closure = make("saga", SAMPLINGS["nice1"], table_size=2)
    hits = np.zeros(N)
    for _ in range(1500):
        opt.step(closure)
        items, new = opt._moved
        assert len(set(items.tolist())) == 2
        hits[items] += 1
        table = opt.state[x]["table"]
        np.testing.assert_allclose(opt.state[x]["mean"], table.mean(0), atol=1e-12)
        assert torch.equal(table[items], new[0])
    assert abs(hits / hits.sum() - 1 / N).max() < 5 * np.sqrt(1 / N / 3000)


def test_the_second_draw_is_ascending():
    _, opt, closure = make("saga", SAMPLINGS["nice1"], table_size=4)
    for _ in range(20):
        opt.step(closure)
        items = opt._moved[0].tolist()
        assert items == sorted(set(items)) and len(items) == 4


def test_saga_counts_repeated_items_once_in_the_table_and_twice_in_the_step():
    x, opt, closure = make("saga", SAMPLINGS["serial"], one_draw=True)
    opt.step(closure)
    table = opt.state[x]["table"].clone().numpy()
    mean = opt.state[x]["mean"].clone().numpy()
    here = x.detach().numpy().copy()
    opt.step(closure, Draw([4, 1, 4], [0.2, 0.3, 0.5]))
    new = grad_items(here)
    v = 0.7 * (new[4] - table[4]) + 0.3 * (new[1] - table[1]) + mean
    np.testing.assert_allclose(x.detach(), here - 0.3 * v, atol=1e-14)
    table[[1, 4]] = new[[1, 4]]
    np.testing.assert_allclose(opt.state[x]["table"], table, atol=1e-14)
    np.testing.assert_allclose(opt.state[x]["mean"], table.mean(0), atol=1e-14)


def test_loaded_state_is_not_shared():
    x, opt, closure = make("saga", SAMPLINGS["nice1"])
    opt.step(closure)
    _, other, closure2 = make("saga", SAMPLINGS["nice1"])
    other.load_state_dict(opt.state_dict())
    before = opt.state[x]["table"].clone()
    for _ in range(20):
        other.step(closure2)
    assert torch.equal(before, opt.state[x]["table"])


def test_saga_refuses_up_front_with_the_memory_it_needs():
    net = nn.Linear(784, 10)
    many = Fixed(np.full(60_000, 1 / 60_000), [])
    kw = dict(lr=0.1, generator=np.random.default_rng(0))
    with pytest.raises(InvalidArgument, match=r"60000 items x 7850 parameters = 1\.75 GiB.*SVRG"):
        SAGA(net.parameters(), many, **kw)
    opt = SAGA(net.parameters(), many, max_bytes=2**31, **kw)
    assert opt.table_bytes == 60_000 * 7850 * 4 and not opt.state


def test_a_table_size_beyond_n_is_refused():
    with pytest.raises(InvalidArgument, match="table_size"):
        saga(Fixed(*SAMPLINGS["nice1"][:2]), table_size=N + 1)


@pytest.mark.parametrize(
    "sampling, size",
    [
        (NiceSampling(N, 3), 5),  # alpha = v = 3/5, b / alpha = 5
        (NiceSampling(N, 1), 1),  # alpha = 1
        (NiceSampling(N, N), N),  # alpha = 0: nothing is random
        (NiceSampling(100, 5), 6),  # 5 * 99 / 95 = 5.2
        (SerialSampling(P / P.sum()), 1),  # alpha = 1 for L proportional to p
        (IndependentSampling(np.full(8, 0.25)), 3),  # alpha = 3/4, 2 / (3/4) = 2.7
        (IndependentSampling(np.full(8, 0.75)), 8),  # alpha = 1/4, 6 / (1/4) = 24 > n
        (SystematicSampling(np.full(4, 0.5)), 2),
        (IndependentSampling([0.0, 1.0, 1.0]), 3),  # alpha = 0, one item never drawn: all of them
        (
            IndependentSampling([0.2, 0.8]),
            2,
        ),  # alpha = 0.8 * 0.2 + 0.2 * 0.8 = 0.32, 1 / 0.32 = 3.1 > n
        (Fixed(*SAMPLINGS["nice3"][:2]), 3),  # tells no v: b
        (ImportanceBatchSampler(P / P.sum(), 4, steps=3, generator=GENERATOR), 4),
    ],
)
def test_default_table_size(sampling, size):
    assert saga(sampling).table_size == size
    assert saga(sampling, table_size=2).table_size == 2


def orthonormal_rows():
    "A problem whose smoothness constants are all equal."
    X = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    problem = LogisticRegression(X, np.arange(12) % 2)
    assert np.ptp(problem.L) < 1e-12
    return problem


def test_the_default_is_what_minimize_takes_where_constants_and_probabilities_are_equal():
    problem = orthonormal_rows()
    for law in (NiceSampling(12, 3), IndependentSampling(np.full(12, 0.3)), NiceSampling(12, 8)):
        assert saga(law).table_size == make_plan(problem, "saga", law).table


def test_the_default_is_what_minimize_takes_where_p_is_proportional_to_the_constants():
    X = np.diag(np.sqrt(np.arange(1.0, 13.0)))
    problem = LogisticRegression(X, np.arange(12) % 2)
    law = IndependentSampling(minibatch_probabilities(problem.L, 3))
    assert saga(law).table_size == make_plan(problem, "saga", law).table > 3


def test_the_default_is_no_smaller_where_only_the_constants_are_equal():
    law = IndependentSampling(np.tile(P, 2))
    assert saga(law).table_size >= make_plan(orthonormal_rows(), "saga", law).table


def test_two_draws_still_works_and_says_that_it_is_deprecated():
    law = Fixed(*SAMPLINGS["nice1"][:2])
    assert saga(law).one_draw is False and saga(law, one_draw=True).one_draw is True
    for old, new in ((True, False), (False, True)):
        with pytest.warns(DeprecationWarning, match="one_draw"):
            assert saga(law, two_draws=old).one_draw is new


def test_the_deprecation_names_the_line_that_should_change():
    law = Fixed(*SAMPLINGS["nice1"][:2])
    with pytest.warns(DeprecationWarning) as caught:
        SAGA(
            [nn.Parameter(torch.zeros(1))],
            law,
            lr=0.1,
            generator=np.random.default_rng(0),
            two_draws=True,
        )
    assert caught[0].filename == __file__


def test_the_default_table_size_is_not_rounded_up():
    "For uniform sets |J| = ceil(b (n - 1)/(n - b)), here in whole numbers."
    cases = [(n, b) for n in range(2, 90) for b in range(1, n)] + [(10_007, 5_000), (4_001, 4_000)]
    exact = [min(n, -(-b * (n - 1) // (n - b))) for n, b in cases]
    assert [_default_table_size(NiceSampling(n, b), n) for n, b in cases] == exact
