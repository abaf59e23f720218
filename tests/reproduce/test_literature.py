"""Published schemes in one race, and the page that says how to add one more."""

import inspect
import math
import re
import tomllib

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.data.fetch import project_root
from impsamp.errors import Diverged, InvalidShape, UnknownName
from impsamp.reproduce import literature
from impsamp.reproduce.contest import contest_run
from impsamp.reproduce.contest_tasks import Task, contest_task, squared_error
from impsamp.reproduce.entries import ENTRIES, Setup
from impsamp.reproduce.literature import (
    Race,
    Submission,
    Trial,
    literature_costs,
    literature_run,
    output_norms,
    seed_range,
)

DESIGN = tomllib.loads((project_root() / "nbs/experiments/literature.toml").read_text())
SUBMISSIONS = [Submission.of(entry) for entry in DESIGN["entry"]]


@pytest.mark.parametrize("one", SUBMISSIONS, ids=lambda one: one.kind)
def test_every_entry_learns_with_its_settings(one):
    done = literature_run("digits", one.kind, one.settings, "momentum", 0.05, 10, 60, seed=1)
    assert done["finite"]
    assert done["train_loss"] < 0.15
    assert 0 <= done["val_error"] < 0.05


def test_shuffled_epochs_are_those_of_the_contest():
    "The same loop, bit for bit: what is compared with the contest is the same thing."
    own = literature_run("digits", "Entry", {}, "adam", 0.003, 10, 30, seed=3)
    theirs = contest_run("digits", "shuffled", "adam", 0.003, 10, 30, seed=3)
    assert own["train_loss"] == theirs["train_loss"]


def test_subsets_are_those_of_the_contest():
    own = literature_run("digits", "RandomSubsets", {"share": 0.1}, "momentum", 0.05, 5, 30, 3)
    theirs = contest_run("digits", "subsets", "momentum", 0.05, 5, 30, 3)
    assert own["train_loss"] == theirs["train_loss"]


def test_a_diverged_run_is_infinite():
    for kind in ("Entry", "RememberedLosses"):
        done = literature_run("digits", kind, {}, "momentum", 1e30, 10, 20, seed=0)
        assert not done["finite"]
        assert done["train_loss"] == math.inf


def test_names_that_are_none():
    with pytest.raises(UnknownName, match="InfoBatch"):
        literature_run("digits", "Infobatch", {}, "adam", 0.1, 5, 1, seed=0)
    with pytest.raises(UnknownName, match="momentum"):
        literature_run("digits", "Entry", {}, "sgd", 0.1, 5, 1, seed=0)
    trial = Trial(contest_task("digits"), "LossPool", {}, "adam", batch=5, steps=1, seed=0)
    trial.entry.score = "norm"
    with pytest.raises(UnknownName, match="upper"):
        trial.step(0.1)


def test_scores_that_are_not_finite_end_a_run():
    trial = Trial(contest_task("digits"), "LossPool", {}, "adam", batch=5, steps=1, seed=0)
    trial.model[-1].bias.data[:] = math.nan
    with pytest.raises(Diverged, match="lower the learning rate"):
        trial.step(0.1)


def test_the_gradient_at_the_output_by_hand():
    x = torch.zeros(1, 3)
    task = Task((x, x), None, None, nn.Sequential, loss=squared_error)  # a mean over three
    output = torch.tensor([[1.0, 0.0, 2.0]])
    found = output_norms(task, output, x)
    assert found.item() == pytest.approx(2 / 3 * math.sqrt(5))


def test_costs_are_taken_in_turns_of_one_training():
    pair = [("Entry", {}), ("LossPool", {"pool": 400})]
    seconds = literature_costs("digits", pair, "adam", 0.003, 10, 3, 4)["seconds"]
    assert seconds.shape == (2, 3)
    assert (seconds > 0).all()


# ---- the race ------------------------------------------------------------------------------------
def invented_run(task, kind, settings, optimizer, lr, batch, steps, seed):
    "The loss halves with each doubling; .1 is the best rate."
    loss = (1 + abs(math.log(lr / 0.1))) / steps
    rest = dict(val_error=0.1, test_error=0.1, seconds=1.0, finite=1.0)
    return {k: np.float64(v) for k, v in dict(rest, train_loss=loss).items()}


def test_a_race_tunes_then_runs_fresh_seeds(monkeypatch):
    def run_all(function, configs, *, experiment, jobs, root):
        assert function is literature_run
        return [invented_run(**config) for config in configs]

    monkeypatch.setattr(literature, "run_all", run_all)
    race = Race("digits", "adam", 10, (0.05, 0.1, 0.2), 60, (0.5, 1.0), 950, 2000, 2, 2, 5)
    rows = race.run(Submission("half as fast", "Entry", {}), share=0.5)
    tuning, fresh = rows[:3], rows[3:]
    assert {(r["lr"], r["steps"], r["seed"]) for r in tuning} == {
        (0.05, 10, 950),
        (0.1, 10, 950),
        (0.2, 10, 950),
    }
    assert [(r["lr"], r["steps"], r["seed"]) for r in fresh] == [
        (0.1, 15, 2000),
        (0.1, 15, 2001),
        (0.1, 30, 2000),
        (0.1, 30, 2001),
    ]


def test_the_committed_file_is_whole():
    assert len({one.id for one in SUBMISSIONS}) == len(SUBMISSIONS) == 12
    assert {one.kind for one in SUBMISSIONS} == set(ENTRIES)
    for entry in DESIGN["entry"]:
        assert set(entry) == {"id", "kind", "settings", "paper", "claim", "on", "departs"}
        allowed = inspect.signature(ENTRIES[entry["kind"]]).parameters
        assert set(entry["settings"]) <= set(allowed)
    assert Race.of(DESIGN["race"]).seeds == 5
    assert Race.of(DESIGN["smoke"]).task == "digits"


# ---- few seeds -----------------------------------------------------------------------------------
def test_the_range_of_seeds_by_hand():
    found = seed_range([(4.0, 4.0), (9.0, 9.0)], [(2.0, 2.0), (1.0, 1.0)])
    assert found == pytest.approx((math.sqrt(18), 2.0, 9.0, 2))


def test_bounds_widen_the_range():
    inf = math.inf
    assert tuple(seed_range([(0.0, 1.0)], [(2.0, 2.0)]))[1:] == (0.0, 0.5, 0)
    assert tuple(seed_range([(3.0, inf)], [(0.0, 1.0)]))[1:] == (3.0, inf, 0)
    assert tuple(seed_range([(inf, inf)], [(inf, inf)]))[1:] == (0.0, inf, 0)


@pytest.mark.parametrize("arm", [[], [(1.0, 1.0)] * 3])
def test_seeds_come_in_pairs(arm):
    with pytest.raises(InvalidShape, match="same seeds"):
        seed_range([(1.0, 1.0)] * 2, arm)


# ---- one more ------------------------------------------------------------------------------------
PAGE = project_root() / "docs" / "submit.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.+?)```", PAGE.read_text(), flags=re.DOTALL)


def test_the_page_on_submitting_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = dict(ENTRIES)
    try:
        scope: dict = {}
        scheme, lines = blocks("python")
        exec(scheme, scope)
        (table,) = blocks("toml")
        (tmp_path / "mine.toml").write_text(table)
        exec(lines, scope)
    finally:
        ENTRIES.clear()
        ENTRIES.update(known)
    name = tomllib.loads(table)["entry"][0]["kind"]
    body = scheme.split(f"class {name}(Entry):\n")[1]
    own = [line for line in body.splitlines() if line.startswith("    ")]
    assert len(own) <= 12  # about ten lines, as the page says
    rows = scope["rows"]
    assert {row["entry"] for row in rows} == {tomllib.loads(table)["entry"][0]["id"]}
    assert all(row["finite"] for row in rows)


def test_the_scheme_of_the_page_is_unbiased():
    scope: dict = {}
    exec(blocks("python")[0], scope)
    (table,) = blocks("toml")
    name = tomllib.loads(table)["entry"][0]["kind"]
    entry = ENTRIES.pop(name)(Setup(6, 3, 10, np.random.default_rng(0)))
    assert entry.unbiased
    entry.step = 2
    entry.tell(np.arange(6), np.array([0.1, 0.2, 0.3, 0.4, 1.0, 2.0]))
    total = np.zeros(6)
    for _ in range(4000):
        idx, weight = entry.draw(None)
        np.add.at(total, idx, weight / 4000)
    assert total == pytest.approx(np.full(6, 1 / 6), abs=0.02)
