"""The package's runs of the first paper's section 4 against a second implementation.

It shares no code with the package (tests/reproduce/independent_lahire.py). Both follow one pairing
rule, so they can be compared number by number.

Tolerance: float32 rounding differs between the two (norms layer by layer or item by item, another
order of sums) by about 1e-7, and training amplifies it; a draw changes only if a uniform falls into
a gap of that width. The largest difference seen in a log loss over whole runs is 5e-6 (records keep
six digits), in three seeds of ten arms, but for two RMSProp runs under p^GN (2e-2 and 1e-1).

Traced: at step 135 of seed 1000 and step 119 of seed 1002 one activation lies within rounding of
ReLU's kink and counts in one implementation only; the weights behind it have gradients of 1e-7 and
v of 1e-14 or zero, so RMSProp's division by sqrt(v) turns that rounding into a thousand weights
moved by up to lr/sqrt(0.01) = 0.1 (same draws, weights within 5e-4 until then). So RMSProp is
compared tightly over the first 70 steps and loosely after; the bounds leave room for another
processor's rounding. A different draw, weight, norm, optimizer or initialisation moves the log loss
by several times 1e-4 within twenty steps and, as the last test shows on the committed runs, by far
more than the bounds over a run.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from impsamp.data import fetch as paths
from impsamp.data import load_mnist01
from impsamp.problems import PaperCNN
from impsamp.reproduce.lahire import paper_run
from tests.reproduce import independent_lahire as independent

RECORDS = Path(__file__).parents[2] / "data" / "records"
CURVES = RECORDS / "independent_lahire.csv"
ANCHOR = RECORDS / "lahire_anchor.csv"
KEY = ["optimizer", "scheme", "seed", "step"]
TOLERANCE = {"sgd": 1e-4, "momentum": 1e-4, "rmsprop": 3e-1, "adam": 1e-2}
ARMS = [f"{o}-{s}" for o, s in independent.ARMS]


def parts(split):
    return split.x_train, split.y_train, split.x_test, split.y_test


@pytest.fixture(scope="module")
def data():
    return tuple(torch.as_tensor(part) for part in parts(load_mnist01()))


def independent_run(data, optimizer, scheme, steps):
    "The second implementation's run of seed 3: columns step and training loss."
    rows = independent.run(
        data, optimizer, scheme, 3, steps=steps, norms=independent.norms_by_layer, test=False
    )
    return np.array(rows)[:, :2].T


@pytest.mark.skipif(
    paths.data_dir() is None, reason="needs the IDX files of MNIST: set IMPSAMP_DATA"
)
@pytest.mark.parametrize("scale", ["unit", "raw"])
def test_both_read_the_same_items(scale):
    ours = parts(load_mnist01(scale=scale))
    theirs = independent.load(paths.data_dir() / "mnist", scale=scale)
    for a, b in zip(ours, theirs):
        assert torch.equal(torch.as_tensor(a), b)


def test_both_start_from_the_same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = independent.Net()
        torch.manual_seed(5)
        ours = PaperCNN()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_two_norms_of_the_second_implementation_agree(data):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = independent.Net()
    x = data[0][::5]
    y = data[1][::5]
    by_loop = independent.norms_by_loop(net, x, y)
    by_layer = independent.norms_by_layer(net, x, y)
    assert np.allclose(by_loop, by_layer, rtol=1e-5)


@pytest.mark.parametrize("arm", ARMS)
def test_twenty_steps_agree(data, arm):
    optimizer, scheme = arm.split("-")
    steps, losses = independent_run(data, optimizer, scheme, steps=20)
    ours = paper_run(optimizer=optimizer, scheme=scheme, seed=3, steps=20, test=False)
    assert list(ours["step"]) == list(steps)
    assert np.abs(np.log(ours["train_loss"] / losses)).max() < 1e-4


def test_the_comparison_would_notice_another_scheme(data):
    _, gn = independent_run(data, "sgd", "gn", steps=20)
    _, half = independent_run(data, "sgd", "half", steps=20)
    assert np.abs(np.log(gn / half)).max() > 3e-4


def test_the_committed_curves_are_those_of_the_script(data):
    table = pd.read_csv(CURVES)
    seed = int(table.seed.min())
    want = table.query(
        "optimizer == 'momentum' and scheme == 'half' and seed == @seed and step <= 10"
    )
    got = np.array(
        independent.run(data, "momentum", "half", seed, steps=10, norms=independent.norms_by_loop)
    )
    assert np.allclose(want[["step", "train_loss", "test_loss", "test_accuracy"]], got, rtol=1e-5)


@pytest.fixture(scope="module")
def committed():
    "Committed package runs beside committed independent ones, where both hold a checkpoint."
    if not ANCHOR.exists():
        pytest.skip("data/records/lahire_anchor.csv is not there: make reproduce writes it")
    ours = pd.read_csv(ANCHOR)
    return ours[ours.setting == "anchor"].merge(
        pd.read_csv(CURVES), on=KEY, suffixes=("", "_independent"), validate="one_to_one"
    )


def test_committed_records_hold_what_is_compared(committed):
    assert len(committed) == len(pd.read_csv(CURVES)) > 0


@pytest.mark.parametrize("arm", ARMS)
def test_committed_records_agree(committed, arm):
    optimizer, scheme = arm.split("-")
    both = committed[(committed.optimizer == optimizer) & (committed.scheme == scheme)]
    ours = np.maximum(both.train_loss, 1e-7)
    theirs = np.maximum(both.train_loss_independent, 1e-7)
    gap = np.abs(np.log(ours / theirs))
    worst = both.assign(gap=gap).nlargest(3, "gap")
    assert gap[both.step <= 70].max() < 1e-4
    assert gap.max() < TOLERANCE[optimizer], worst[[*KEY, "train_loss", "train_loss_independent"]]


@pytest.mark.parametrize("optimizer", TOLERANCE)
def test_the_bounds_tell_schemes_apart(optimizer):
    table = pd.read_csv(CURVES).query("optimizer == @optimizer")
    losses = table.pivot(index=["seed", "step"], columns="scheme", values="train_loss")
    losses = losses.clip(lower=1e-7)
    assert np.abs(np.log(losses.gn / losses.u)).max() > 2 * TOLERANCE[optimizer]
