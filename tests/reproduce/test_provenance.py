"""What made a record, and which of its settings were kept."""

import json

import pytest

from impsamp.errors import ChecksumError, DataError, DataUnavailable, RecordError
from impsamp.reproduce.provenance import (
    COMPUTED,
    Ledger,
    check_provenance,
    keep_all,
    own_provenance,
    write_provenance,
)

X = ["data/records/x.csv"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    "An output root with a record."
    monkeypatch.setenv("IMPSAMP_OUTPUT", str(tmp_path))
    monkeypatch.delenv("IMPSAMP_RUN", raising=False)
    (tmp_path / "settings.ini").write_text("lib_name = impsamp\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "records").mkdir(parents=True)
    (tmp_path / X[0]).write_text("a\n1\n")
    return tmp_path


def test_provenance_holds_what_was_run(root):
    write_provenance("x", {"runs": 3}, X)
    written = json.loads((root / "data/records/x.json").read_text())
    assert written["parameters"] == {"runs": 3}
    assert "settings" not in written  # the same bytes from whoever computes all
    assert check_provenance("x", {"runs": 3}, X) == {"all": COMPUTED}
    with pytest.raises(RecordError, match="differs from what was asked"):
        check_provenance("x", {"runs": 4}, X)
    (root / X[0]).write_text("a\n2\n")
    with pytest.raises(RecordError, match="not the file"):
        check_provenance("x", {"runs": 3}, X)
    with pytest.raises(RecordError, match="no provenance"):
        check_provenance("y", {}, [])


def test_seconds_are_no_part_of_provenance(root):
    timings = root / "data" / "timings" / "x.csv"
    timings.parent.mkdir(parents=True)
    timings.write_text("seconds\n1\n")
    write_provenance("x", {}, ["data/timings/x.csv"])
    timings.write_text("seconds\n2\n")
    check_provenance("x", {}, ["data/timings/x.csv"])
    assert json.loads((root / "data/records/x.json").read_text())["outputs"] == {}


def partial():
    "The ledger of a run that could compute one of two settings."
    ledger = Ledger()
    for name in ("here", "elsewhere"):
        with ledger.setting(name):
            if name == "elsewhere":
                raise DataUnavailable("'elsewhere' cannot be had: put it\n  there")
    return ledger


def test_a_ledger_says_what_became_of_each_setting(capsys):
    ledger = partial()
    sentence = "kept from committed records, because 'elsewhere' cannot be had"
    assert ledger.became == {"here": "computed", "elsewhere": sentence}
    assert ledger.kept == ["elsewhere"]
    assert capsys.readouterr().out == f"elsewhere: {sentence}\n"


@pytest.mark.parametrize("kind", [ChecksumError, DataError, ValueError, KeyboardInterrupt])
def test_nothing_but_absence_is_caught(kind):
    ledger = Ledger()
    with pytest.raises(kind), ledger.setting("australian"):
        raise kind("altered")
    assert ledger.became == {}


def test_a_partial_run_leaves_the_committed_provenance_alone(root):
    write_provenance("x", {"runs": 3}, X)
    before = (root / "data/records/x.json").read_bytes()
    (root / X[0]).write_text("a\n2\n")
    write_provenance("x", {"runs": 3}, X, partial())
    assert (root / "data/records/x.json").read_bytes() == before
    assert check_provenance("x", {"runs": 3}, X) == partial().became


def test_a_run_that_computed_every_setting_writes_both(root):
    ledger = Ledger()
    with ledger.setting("here"):
        pass
    write_provenance("x", {}, X, ledger)
    assert (root / "data/records/x.json").is_file()
    assert check_provenance("x", {}, X) == {"here": "computed"}


def test_a_run_has_a_folder_of_its_own(root, monkeypatch):
    assert own_provenance("x") == root / "_runs" / "by_hand" / "provenance" / "x.json"
    monkeypatch.setenv("IMPSAMP_RUN", str(root / "run"))
    write_provenance("x", {}, X)
    assert (root / "run" / "provenance" / "x.json").is_file()


def test_what_is_kept_as_a_whole_must_be_there(root):
    keep_all("x", {}, X, "MNIST cannot be had")
    became = json.loads(own_provenance("x").read_text())["settings"]
    assert became == {"all": "kept from committed records, because MNIST cannot be had"}
    with pytest.raises(RecordError, match=r"MNIST cannot be had, and there are no committed .*y"):
        keep_all("y", {}, ["data/records/y.csv"], "MNIST cannot be had")
