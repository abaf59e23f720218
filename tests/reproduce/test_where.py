"""The folders of the repository, and the one that a smoke run writes to."""

import pytest

from impsamp.reproduce import where

FOLDERS = {
    where.records_dir: "data/records",
    where.runs_dir: "data/runs",
    where.timings_dir: "data/timings",
    where.figures_dir: "figures",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A checkout with a folder inside, in which we stand."
    (tmp_path / "settings.ini").write_text("lib_name = impsamp\n")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    monkeypatch.delenv("IMPSAMP_OUTPUT", raising=False)
    return tmp_path


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.__name__)
def test_folders_lie_in_the_checkout(project, folder):
    assert where.project_root() == project
    assert folder() == project / FOLDERS[folder]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.__name__)
def test_a_smoke_run_writes_elsewhere(project, monkeypatch, folder):
    monkeypatch.setenv("IMPSAMP_OUTPUT", str(project / "elsewhere"))
    assert where.output_root() == project / "elsewhere"
    assert folder() == project / "elsewhere" / FOLDERS[folder]


def test_an_empty_name_is_no_folder(project, monkeypatch):
    monkeypatch.setenv("IMPSAMP_OUTPUT", "")
    assert where.output_root() == project


def test_nothing_is_made_by_asking(project):
    for folder in FOLDERS:
        assert not folder().exists()
