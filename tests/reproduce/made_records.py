"""Records, timings and claims made by hand, for the tests of verdicts and claims."""

import math

import numpy as np
import pandas as pd

from impsamp.reproduce.claims import PHASES

STEPS = list(range(0, 301, 10))
LOG105 = math.log(1.05)
FAST = {"flips": 1_999}

# the first paper's ten arms, none better than another
ARMS = {
    "sgd/u": 1.0,
    "sgd/gn": 1.0,
    "sgd/half": 1.0,
    "momentum/u": 1.0,
    "momentum/gn": 1.0,
    "momentum/half": 1.0,
    "rmsprop/u": 1.0,
    "rmsprop/gn": 1.0,
    "adam/u": 1.0,
    "adam/gn": 1.0,
}


def curves(levels, *, setting="anchor", seeds=12, noise=0.02, seed=0):
    """Records with loss level * exp(noise) * exp(-step / 100) for each arm of `levels`.

    Half of the noise of a seed is shared by all arms."""
    g = np.random.default_rng(seed)
    shared = g.normal(0, noise, seeds)
    rows = []
    for arm, level in levels.items():
        own = shared + g.normal(0, noise, seeds)
        for s in range(seeds):
            for step in STEPS:
                loss = level * math.exp(own[s] - step / 100)
                rows.append((setting, *arm.split("/"), s, step, loss))
    columns = ["setting", "optimizer", "scheme", "seed", "step", "train_loss"]
    return pd.DataFrame(rows, columns=columns)


def timings(repeats=12, *, scoring=1.0):
    "Seconds of all `ARMS`: a step of about 1, an evaluation of 0.5, and scoring but for u."
    g = np.random.default_rng(0)
    draw = 0.01
    evaluation = 0.5
    rows = []
    for arm in ARMS:
        for repeat in range(repeats):
            step = math.exp(g.normal(0, 0.01))
            own = 0.0 if arm.endswith("/u") else scoring
            total = draw + own + step + evaluation
            rows.append((*arm.split("/"), repeat, draw, own, step, evaluation, total))
    return pd.DataFrame(rows, columns=["optimizer", "scheme", "repeat", *PHASES])


def claim(*pairs, kind="order", measures=("mean_log",), id="x", **more):
    "A claim about `pairs`, (first arm, second arm) each."
    return {
        "id": id,
        "text": "t",
        "source": "s",
        "kind": kind,
        "family": "loss",
        "measures": list(measures),
        "pairs": [list(pair) for pair in pairs],
        **more,
    }
