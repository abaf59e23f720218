"""Torch optimizers and compiled ones make the same steps from the same draws, to 1e-10."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from impsamp.linear import minimize
from impsamp.optimizers import SAGA, SARAH, SVRG
from impsamp.problems import LogisticRegression, SigmoidLeastSquares
from impsamp.samplers import (
    ApproximateIndependentSampling,
    IndependentSampling,
    NiceSampling,
    SerialSampling,
)
from impsamp.theory.minibatch import minibatch_probabilities

METHODS = dict(svrg=SVRG, sarah=SARAH, saga=SAGA)
RNG = np.random.default_rng(11)
X = RNG.normal(size=(40, 7)) * RNG.lognormal(sigma=1.0, size=(40, 1)) * (RNG.random((40, 7)) < 0.7)
Y = (X @ RNG.normal(size=7) + RNG.normal(size=40) > 0).astype(int)
PROBLEMS = dict(
    logistic=lambda X: LogisticRegression(X, Y, l2=0.03),
    sigmoid01=lambda X: SigmoidLeastSquares(X, Y, l2=0.03),
    sigmoidpm=lambda X: SigmoidLeastSquares(X, Y, reading="pm1", l2=0.03),
)
LOSSES = dict(
    logistic=lambda z, s: nn.functional.softplus(-s * z),
    sigmoid01=lambda z, s: torch.sigmoid(-s * z) ** 2,
    sigmoidpm=lambda z, s: (1 - s * torch.sigmoid(z)) ** 2,
)


def samplings(L):
    p = minibatch_probabilities(L, 6)
    return dict(
        nice=NiceSampling(40, 6),
        importance=IndependentSampling(p),
        approximate=ApproximateIndependentSampling(p),
        serial=SerialSampling(L / L.sum()),
    )


def torch_run(method, loss, sampling, lr, steps, **kw):
    "Iterates after every step that used a draw, the draws, and (SAGA) the sets J."
    x = nn.Parameter(torch.zeros(7, dtype=torch.float64))
    rows, signs = torch.tensor(X), torch.tensor(2.0 * Y - 1)
    rng = np.random.default_rng(5)
    opt = METHODS[method]([x], sampling, lr=lr, generator=rng, weight_decay=0.03, **kw)

    def closure(idx, weight):
        return (weight * LOSSES[loss](rows[idx] @ x, signs[idx])).sum()

    generator = np.random.default_rng(6)
    iterates = []
    draws = []
    tables = []
    while len(draws) < steps:
        opens = method == "sarah" and opt.progress["inner"] == 0
        draw = None if opens else sampling.draw(generator)
        opt.step(closure, draw)
        if opens:
            continue
        draws.append(draw)
        iterates.append(x.detach().numpy().copy())
        if method == "saga":
            tables.append(opt._moved[0].numpy())
    return iterates, draws, tables


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("sampling", ["nice", "importance", "approximate", "serial"])
@pytest.mark.parametrize("loss", PROBLEMS)
@pytest.mark.parametrize(
    "method, one_draw", [("svrg", False), ("sarah", False), ("saga", False), ("saga", True)]
)
def test_step_for_step(method, one_draw, loss, sampling, form):
    problem = PROBLEMS[loss](X if form == "dense" else sparse.csr_matrix(X))
    law = samplings(problem.lifted_smoothness)[sampling]
    lr = 0.5 / problem.L.max()
    kw = dict(one_draw=one_draw) if method == "saga" else dict(inner_steps=8)
    iterates, draws, tables = torch_run(method, loss, law, lr, 30, **kw)
    assert np.linalg.norm(iterates[-1]) > 1e-2
    for t in range(1, 31):
        done = minimize(
            problem,
            method,
            law,
            lr=lr,
            inner_steps=kw.get("inner_steps"),
            max_passes=1e6,
            output="last",
            one_draw=one_draw,
            draws=draws[:t],
            table_draws=tables[:t] if method == "saga" and not one_draw else None,
        )
        error = np.abs(done.last - iterates[t - 1]).max()
        assert error <= 1e-10, f"after step {t}"
