"""What a result could read, as one name."""

from pathlib import Path

import pytest

from impsamp.reproduce.inputs import READS, drawn_from, files_read, files_version

ROOT = Path(__file__).parents[2]


def test_content_and_name_both_count(tmp_path):
    "Two files whose contents are swapped, or cut elsewhere, are other inputs."
    (tmp_path / "a").write_text("12")
    (tmp_path / "b").write_text("3")
    seen = {files_version(["*"], [tmp_path])}
    for first, second in (("3", "12"), ("1", "23"), ("12", "4")):
        (tmp_path / "a").write_text(first)
        (tmp_path / "b").write_text(second)
        seen.add(files_version(["*"], [tmp_path]))
    assert len(seen) == 4


def test_a_file_that_two_patterns_fit_counts_once(tmp_path):
    (tmp_path / "a").write_text("1")
    assert files_version(["*", "a"], [tmp_path]) == files_version(["a"], [tmp_path])


def test_where_a_file_lies_counts(tmp_path):
    "A notebook takes the run's own record if it is there, else the project's."
    roots = [tmp_path / "one", tmp_path / "two"]
    seen = set()
    for root in roots:
        root.mkdir()
        (root / "x").write_text("1")
        seen.add(files_version(["x"], roots))
        (root / "x").unlink()
    assert len(seen) == 2


@pytest.mark.parametrize("folder", ["data/records", "data/timings", "nbs/experiments"])
def test_the_output_root_counts_as_the_project_does(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("IMPSAMP_OUTPUT", str(tmp_path))
    before = drawn_from()
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "x.csv").write_text("1")
    assert drawn_from()["read"] != before["read"]


def test_the_patterns_find_what_they_are_for():
    for pattern in READS:
        assert any(path.is_file() for path in ROOT.glob(pattern)), pattern
    assert files_read(READS) == files_read([*READS, *READS])
