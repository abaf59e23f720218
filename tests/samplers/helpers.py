"""What several tests of samplers share."""

import io

import numpy as np
import torch
from hypothesis import strategies as st

from impsamp.samplers import AliasTable, InverseCDF, SumTree

KINDS = {"alias": AliasTable, "tree": SumTree, "cdf": InverseCDF}
POINTS = ("multinomial", "stratified", "systematic")
LAST = np.nextafter(1, 0)  # the largest uniform

# counts of a few items, not all zero
counts_of_items = st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any)


def rng(seed=0):
    return np.random.default_rng(seed)


def through_a_file(state):
    "What is left of a state after `torch.save` and a loader that trusts nothing."
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
