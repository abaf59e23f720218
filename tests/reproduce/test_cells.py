"""One cell from its prices to its seconds, on the hundred digits; runs are kept."""

import tomllib

import numpy as np
import pytest

from impsamp.data.fetch import project_root
from impsamp.errors import RecordError
from impsamp.reproduce import cells
from impsamp.reproduce.cells import Cell, Racing, Setting, cell_costs, confirm, seed_times, tune

CELL = Cell("tiny", "digits", "momentum", "train_loss", 0.05, 60, 10, (10, 20), (0.01, 0.02, 0.04))
COSTS = {(arm, b): b / 1e4 for arm in ("shuffled", "remembered") for b in CELL.batches}
POWER = {0.01: 0.5, 0.02: 1.0, 0.04: 0.7}  # how fast each learning rate falls


def made_up(task, arm, optimizer, lr, batch, steps, seed):
    "Loss (steps x batch)^-power / 2 for shuffled epochs, half of that for remembered scores."
    value = 0.5 * (steps * batch / 100) ** -POWER[lr] / (2 if arm == "remembered" else 1)
    rest = dict(val_error=np.nan, test_error=np.nan, promise=2.0, gain=2.0, seconds=1.0)
    return {k: np.float64(v) for k, v in dict(rest, train_loss=value, finite=1.0).items()}


@pytest.fixture
def invented(monkeypatch):
    "Runs that cost nothing, and a list of what was asked for."
    asked = []

    def run_all(function, configs, *, experiment, jobs, root):
        asked.extend(configs)
        return [made_up(**config) for config in configs]

    monkeypatch.setattr(cells, "run_all", run_all)
    return asked


def test_tuning_gives_each_setting_a_third_and_the_best_all(invented, monkeypatch):
    monkeypatch.setattr(cells, "BEST", 2)
    racing = Racing(CELL, "shuffled", COSTS)
    assert racing.budget == pytest.approx(0.06)
    tuned, rows = tune(racing)
    assert tuned.setting.lr == 0.02
    assert [row["phase"] for row in rows] == ["third"] * 6 + ["whole"] * 4
    assert {(row["batch"], row["steps"]) for row in rows[:6]} == {(10, 20), (20, 10)}
    assert {row["seed"] for row in rows[6:]} == {901, 902}
    # 0.5 / (items / 100) = 0.05 at 1000 items: 100 steps of 10 at a millisecond, beyond 60
    assert tuned.guess == (pytest.approx(0.06), np.inf)


def test_fresh_seeds_surround_the_time_and_find_it(invented):
    for arm, time in (("shuffled", 0.1), ("remembered", 0.05)):
        racing = Racing(CELL, arm, COSTS)
        tuned, _ = tune(racing)
        rows = confirm(racing, tuned, [1000, 1001])
        assert len(rows) == 6
        times = seed_times(racing, rows)
        assert list(times) == [1000, 1001]
        assert times[1000] == pytest.approx((time, time), rel=0.02)


def test_no_fresh_seeds_no_time(invented):
    racing = Racing(CELL, "shuffled", COSTS)
    _, rows = tune(racing)
    with pytest.raises(RecordError, match="no fresh seeds"):
        seed_times(racing, rows)


def test_runs_are_kept(tmp_path):
    costs = cell_costs(CELL, str(tmp_path), rounds=1)
    assert costs == cell_costs(CELL, str(tmp_path), rounds=1)
    racing = Racing(CELL, "remembered", costs, str(tmp_path))
    wanted = [(Setting(0.02, 10), 30 * costs["remembered", 10])]
    first = racing.rows("fresh", wanted, [7])
    assert first == racing.rows("fresh", wanted, [7])
    assert first[0]["steps"] == 30
    assert len(list((tmp_path / "contest").glob("*.npz"))) == 1


def test_the_committed_cells_are_what_the_protocol_says():
    path = project_root() / "nbs" / "experiments" / "contest_cells.toml"
    design = tomllib.loads(path.read_text())
    found = [Cell.of(entry) for entry in design["cell"]]
    assert len({cell.id for cell in found}) == len(found)
    for cell in found:
        assert len(cell.batches) * len(cell.rates) == 24
        assert cell.reference in cell.batches
        assert cell.endpoint in ("val_error", "train_loss")
    assert {cell.optimizer for cell in found} == {"momentum", "adam"}
