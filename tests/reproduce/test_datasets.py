"""Data sets by name: where they lie, and whether they are right, without a download."""

import os

import pytest

from impsamp.data import fetch
from impsamp.errors import DataUnavailable, UnknownName
from impsamp.reproduce.datasets import DATASETS, chosen_sets, fetched, listed, verified


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "An empty folder of data, an empty cache, and no way out."
    here = tmp_path / "data"
    here.mkdir()
    monkeypatch.setenv("IMPSAMP_DATA", str(here))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def closed(url, *_):
        raise DataUnavailable(f"{url}: closed")

    monkeypatch.setattr(fetch, "_response", closed)
    return here


def test_every_set_has_a_name_and_words():
    assert {"mnist01", "mnist", "breast_cancer", "w8a", "covtype", "flights"} <= set(DATASETS)
    assert all(one.about and name == one.name for name, one in DATASETS.items())


def test_no_name_means_all_and_a_wrong_one_is_refused():
    assert [one.name for one in chosen_sets([])] == list(DATASETS)
    assert [one.name for one in chosen_sets(["w8a"])] == ["w8a"]
    with pytest.raises(UnknownName, match="did you mean 'mnist'"):
        chosen_sets(["mnits"])


@pytest.mark.parametrize("name", ["mnist01", "breast_cancer"])
def test_what_comes_with_a_package_is_right(folder, name):
    assert listed(DATASETS[name]).state == "here"
    assert verified(DATASETS[name]).state == "right"


def test_what_is_not_here_is_absent_and_nothing_is_downloaded(folder, monkeypatch):
    monkeypatch.setattr(fetch, "_response", None)  # would fail if it were called
    for look in (listed, verified):
        found = look(DATASETS["australian"])
        assert found.state == "absent"
        assert "impsamp data fetch australian" in str(found)


def test_what_cannot_be_fetched_is_absent_with_the_reason(folder):
    found = fetched(DATASETS["australian"])
    assert found.state == "absent"
    assert "closed" in found.words


def test_a_wrong_file_is_found(folder):
    (folder / "australian").write_text("+1 1:2\n")
    assert listed(DATASETS["australian"]).state == "here"
    found = verified(DATASETS["australian"])
    assert found.state == "wrong"
    assert "sha256" in found.words


def test_half_of_a_set_is_not_here(folder):
    (folder / "mnist").mkdir()
    (folder / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"x")
    assert listed(DATASETS["mnist"]).state == "absent"


def test_a_download_is_found_in_the_cache(folder, tmp_path):
    kept = fetch.cache_dir() / "libsvm"
    kept.mkdir(parents=True)
    (kept / "ijcnn1.bz2").write_bytes(b"x")
    found = listed(DATASETS["ijcnn1"])
    assert found.state == "here"
    assert str(kept) in found.words


@pytest.mark.skipif(not os.environ.get("IMPSAMP_DATA"), reason="IMPSAMP_DATA names no data")
def test_real_files_are_right():
    one = DATASETS["australian"]
    if one.where() is None:
        pytest.skip("australian is not here")
    assert str(verified(one)).split()[:2] == ["australian", "right"]
