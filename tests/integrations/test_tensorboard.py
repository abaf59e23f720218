"""What TensorBoard shows is what loader and assessment have found."""

import pytest
import torch

from impsamp.assess import AssessCallback
from impsamp.errors import InvalidArgument
from impsamp.integrations.frameworks import MissingFramework
from impsamp.integrations.tensorboard import ASSESSED, TensorBoardLog, scalars_of
from impsamp.samplers.trust import Trust
from tests.integrations import cases


class Written:
    def __init__(self):
        self.rows = []

    def add_scalar(self, tag, scalar_value, global_step):
        self.rows.append((tag, scalar_value, global_step))


def judged():
    "A row of an assessment of p on real images."
    data = cases.images()
    loss_fn = torch.nn.CrossEntropyLoss(reduction="none")
    p = cases.law("p", len(data))
    judge = AssessCallback(p, cases.model(), loss_fn, data, sample_size=200, every=2)
    return judge(0), judge(1)


def test_a_row_of_an_assessment_becomes_curves_and_none_becomes_nothing():
    row, between = judged()
    writer = Written()
    log = TensorBoardLog(writer, prefix="run")
    log(7, row)
    log(8, between)
    assert between is None
    found = {tag: value for tag, value, _ in writer.rows}
    assert found == {f"run/assess/{name}": row[key] for key, name in ASSESSED.items()}
    assert {step for *_, step in writer.rows} == {7}


def test_trust_becomes_shares():
    writer = Written()
    TensorBoardLog(writer)(1, Trust(draws=8, effective=2.0, largest=0.5, against_uniform=3.0))
    assert writer.rows == [
        ("draws/effective_share_of_draws", 0.25, 1),
        ("draws/largest_share_of_estimate", 0.5, 1),
        ("draws/second_moment_over_uniform", 3.0, 1),
    ]


def test_unknown_numbers_are_left_out():
    assert scalars_of({"variance_ratio": float("nan"), "ess": 1.0}) == {"effective_sample_size": 1}


def test_no_writer_is_refused():
    with pytest.raises(InvalidArgument, match=r"logger\.experiment"):
        TensorBoardLog(3)


def test_without_tensorboard_a_folder_is_refused_in_words(monkeypatch, tmp_path):
    monkeypatch.setattr("impsamp.integrations.frameworks.find_spec", lambda name: None)
    with pytest.raises(MissingFramework, match="pip install 'tensorboard>="):
        TensorBoardLog(tmp_path)


def test_event_files_hold_the_numbers(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is missing")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    row, _ = judged()
    log = TensorBoardLog(tmp_path)
    log(5, row)
    log.writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {f"assess/{name}" for name in ASSESSED.values()}
    (event,) = events.Scalars("assess/largest_weight")
    assert event.step == 5
    assert event.value == pytest.approx(row["max_weight"], rel=1e-6)
