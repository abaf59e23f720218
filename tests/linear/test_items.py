"""Rows that repeat become one item."""

import numpy as np
from scipy import sparse

from impsamp.linear.items import fingerprints, merge_rows


def test_merging_keeps_different_rows_apart():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, size=(2000, 3)).astype(float)
    t = rng.integers(0, 2, size=2000).astype(float)
    _, b, w = merge_rows(X, t, np.ones(2000))
    assert len(b) == len(np.unique(np.c_[X, t], axis=0))
    assert w.sum() == 2000


def test_fingerprints_see_content_only():
    "Dense or CSR, wherever the row stands, whatever the sign of a zero; and the target counts."
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, size=(50, 3)).astype(float)
    t = rng.integers(0, 2, size=50).astype(float)
    prints = fingerprints(X, t)
    assert np.array_equal(fingerprints(sparse.csr_matrix(X), t), prints)
    assert np.array_equal(fingerprints(X[::-1], t[::-1]), prints[::-1])
    assert np.array_equal(fingerprints(np.where(X == 0, -0.0, X), t), prints)
    assert (fingerprints(X, 1 - t) != prints).all()
