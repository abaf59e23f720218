"""The committed figures come from the committed records, and the records from the code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from impsamp.reproduce.lahire import checkpoint_table, paper_run
from impsamp.reproduce.runner import load_manifest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("optimizer, scheme", [("sgd", "u"), ("momentum", "half"), ("adam", "gn")])
def test_the_first_seed_of_the_anchor_comes_out_again(optimizer, scheme):
    "A third of a run; equal to the last printed digit on the kind of processor that wrote the record, elsewhere to rounding that a few steps amplify."
    records = pd.read_csv(ROOT / "data/records/lahire_anchor.csv")
    seed = int(records.seed.min())
    config = dict(optimizer=optimizer, scheme=scheme, seed=seed, steps=100)
    fresh = checkpoint_table([config], [paper_run(**config)])
    kept = records[
        (records.optimizer == optimizer)
        & (records.scheme == scheme)
        & (records.seed == seed)
        & (records.step <= 100)
    ]
    floor = 1e-7  # below it a loss is rounding of float32 margins
    for column in ("train_loss", "test_loss"):
        a, b = (np.log(np.maximum(f[column].to_numpy(), floor)) for f in (fresh, kept))
        np.testing.assert_allclose(a, b, atol=2e-3)


@pytest.mark.full
def test_figures_are_what_the_records_give(tmp_path):
    "Draw everything again elsewhere from the committed records: the same bytes."
    for folder in ("records", "timings"):
        shutil.copytree(ROOT / "data" / folder, tmp_path / "data" / folder)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "IMPSAMP_OUTPUT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "impsamp.reproduce", "figures"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [
        o
        for e in load_manifest(ROOT / "nbs/experiments/experiments.toml")["result"]
        for o in e["outputs"]
    ]
    assert [o for o in outputs if (tmp_path / o).read_bytes() != (ROOT / o).read_bytes()] == []


@pytest.mark.full
@pytest.mark.skipif(not os.environ.get("IMPSAMP_DATA"), reason="needs full MNIST: set IMPSAMP_DATA")
def test_a_switched_run_comes_out_again_from_its_log():
    "The decisions of the committed log, replayed with another clock: the committed losses, to the digits they were written with."
    from impsamp.reproduce.tasks import make_task
    from impsamp.schemes import Stale, SwitchOn
    from impsamp.training import train

    log = pd.read_csv(ROOT / "data/timings/switch_on.csv").query(
        "scheme == 'remembered loss' and seed == 0"
    )
    kept = pd.read_csv(ROOT / "data/records/switch_on.csv").query(
        "scheme == 'remembered loss' and seed == 0 and arm == 'switched'"
    )
    assert {True, False} == set(log.on)
    model, loss_fn, data, _ = make_task("mnist", 0)
    x, y = data.x_train[:10_000], data.y_train[:10_000]

    def evaluate(net):
        with torch.no_grad():
            return {
                "loss": torch.cat(
                    [loss_fn(net(a), b) for a, b in zip(x.split(1000), y.split(1000))]
                )
                .double()
                .mean()
                .item()
            }

    scheme = SwitchOn(
        Stale("loss"),
        every=160,
        trial=15,
        replay=[tuple(r) for r in log.drop(columns=["scheme", "seed"]).itertuples(index=False)],
    )
    history = train(
        model,
        loss_fn,
        x,
        y,
        torch.optim.SGD(model.parameters(), lr=0.1),
        scheme,
        batch=64,
        steps=1600,
        seed=0,
        evaluate=evaluate,
        eval_every=160,
    )
    np.testing.assert_allclose(np.log(history.values["loss"]), np.log(kept.loss), atol=2e-3)
    assert [d.on for d in scheme.log] == log.on.tolist()
