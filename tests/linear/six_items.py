"A problem of six items, so small that every subset of them is enumerated."

from itertools import chain, combinations

import numpy as np

from impsamp.linear import minimize
from impsamp.problems import LogisticRegression
from impsamp.samplers import (
    ApproximateIndependentSampling,
    IndependentSampling,
    NiceSampling,
    SerialSampling,
)
from impsamp.theory.minibatch import minibatch_probabilities

N = 6
LR = 0.3
START = np.array([0.3, -0.2, 0.5])
X = np.array(
    [
        [1.0, 0.0, 0.5],
        [0.0, 2.0, 0.0],
        [3.0, 1.0, 0.0],
        [0.0, 0.0, 1.0],
        [1.0, 1.0, 1.0],
        [-2.0, 0.0, 2.0],
    ]
)
PROBLEM = LogisticRegression(X, [0, 1, 1, 0, 1, 0], l2=0.1)
P = minibatch_probabilities(PROBLEM.L, 2.5)
SAMPLINGS = {
    "nice": NiceSampling(N, 2),
    "independent": IndependentSampling(P),
    "approximate": ApproximateIndependentSampling(P),
    "serial": SerialSampling(PROBLEM.L / PROBLEM.L.sum()),
}


def subsets_of(items):
    return list(chain.from_iterable(combinations(items, k) for k in range(len(items) + 1)))


SUBSETS = subsets_of(range(N))


def coins(S, items, p):
    "Probability that exactly the items of S show heads."
    return float(np.prod([p[i] if i in S else 1 - p[i] for i in items]))


def approximate_law():
    "Every nice subset of the uncertain items, thinned by its coins."
    free = [i for i in range(N) if P[i] < 1]
    certain = {i for i in range(N) if P[i] >= 1}
    a = int(np.ceil(len(free) * P[free].max()))
    heads = len(free) * P / a
    candidates = list(combinations(free, a))
    out = dict.fromkeys(SUBSETS, 0.0)
    for chosen in candidates:
        for S in subsets_of(chosen):
            out[tuple(sorted({*S, *certain}))] += coins(S, chosen, heads) / len(candidates)
    return out


def law(name):
    "Probability of every subset, from the sampling's definition."
    if name == "nice":
        return {S: float(len(S) == 2) / 15 for S in SUBSETS}
    if name == "independent":
        return {S: coins(S, range(N), P) for S in SUBSETS}
    if name == "approximate":
        return approximate_law()
    p = SAMPLINGS["serial"].inclusion_probabilities
    return {S: float(p[S[0]]) if len(S) == 1 else 0.0 for S in SUBSETS}


def run(method, draws, tables=None, *, sampling, **options):
    "The last iterate after the given draws, from START with steps of LR."
    return minimize(
        PROBLEM,
        method,
        sampling,
        lr=LR,
        inner_steps=50,
        draws=[np.array(d, dtype=int) for d in draws],
        table_draws=tables,
        max_passes=1e6,
        output="last",
        record_every=1e6,
        x0=START,
        **options,
    ).x
