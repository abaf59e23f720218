"""Data that the tests of several problems share."""

import numpy as np


def two_classes(seed=0, n=15, k=4):
    "Features (n, k) and labels 0/1 (n,) of which both occur."
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) * 2
    return X, np.r_[0, 1, (rng.random(n - 2) < 0.5) * 1]


def central_differences(f, x, step=1e-6):
    "The gradient of f.loss at x, coordinate by coordinate."
    rises = [f.loss(x + step * e) - f.loss(x - step * e) for e in np.eye(f.d)]
    return np.array(rises) / (2 * step)
