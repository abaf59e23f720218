"Small problems, and every method with every sampling, by name."

import numpy as np

from impsamp.samplers import (
    ApproximateIndependentSampling,
    IndependentSampling,
    NiceSampling,
    SerialSampling,
)
from impsamp.theory.minibatch import minibatch_probabilities

N = 40
B = 4

# name -> (method, one_draw)
METHODS = {
    "svrg": ("svrg", False),
    "saga": ("saga", False),
    "saga, one draw": ("saga", True),
    "sarah": ("sarah", False),
    "sgd": ("sgd", False),
}
SAMPLINGS = ("nice", "independent", "approximate", "serial")


def features(seed=0, n=N, k=5):
    "Rows of unequal size with zeros among them (n, k), and labels in {0, 1}."
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, k))
    sizes = np.exp(0.7 * rng.normal(size=(n, 1)))
    X = values * sizes * (rng.random((n, k)) < 0.7)
    return X, (rng.random(n) < 0.5) * 1


def sampling(name, L, b=B):
    if name == "nice":
        return NiceSampling(L.size, b)
    if name == "serial":
        return SerialSampling(L / L.sum())
    p = minibatch_probabilities(L, b)
    return IndependentSampling(p) if name == "independent" else ApproximateIndependentSampling(p)
