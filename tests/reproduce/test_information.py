"""What a report of a fault holds, also where next to nothing is installed."""

import os
import platform

import pytest
import torch

import impsamp
from impsamp.extras import CORE, EXTRAS
from impsamp.reproduce import information as module
from impsamp.reproduce.information import information, write_information


def test_versions_are_those_that_run():
    facts = information()
    assert facts["impsamp"]["version"] == impsamp.__version__
    assert facts["impsamp"]["python"].startswith(platform.python_version())
    assert facts["packages"]["torch"] == torch.__version__
    assert set(facts["packages"]) == {"torch", "numpy", *CORE, *EXTRAS}
    assert facts["devices"]["cpu"].startswith(f"{os.cpu_count()} cores")


@pytest.mark.parametrize(
    "name, install", [("matplotlib", "'impsamp[plots]'"), ("scipy", "impsamp")]
)
def test_what_is_not_installed_says_how_to_get_it(monkeypatch, name, install):
    found = module.version

    def version(distribution):
        if distribution == name:
            raise module.PackageNotFoundError(distribution)
        return found(distribution)

    monkeypatch.setattr(module, "version", version)
    assert information()["packages"][name] == f"not installed (pip install {install})"


def test_only_variables_that_matter_are_shown(monkeypatch):
    monkeypatch.setenv("IMPSAMP_JOBS", "3")
    monkeypatch.setenv("SECRET_TOKEN", "do not show")
    facts = information()
    assert facts["environment"]["IMPSAMP_JOBS"] == "3"
    assert "do not show" not in write_information(facts)


def test_folders_are_counted(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(2**20))
    monkeypatch.setenv("IMPSAMP_DATA", str(tmp_path))
    assert information()["folders"]["data (IMPSAMP_DATA)"] == f"{tmp_path} (1 files, 1.0 MiB)"
    monkeypatch.setenv("IMPSAMP_DATA", str(tmp_path / "none"))
    assert "(not there)" in information()["folders"]["data (IMPSAMP_DATA)"]


def test_lines_name_sections_and_values():
    text = write_information({"a": {"b": "1", "c": "2"}})
    assert [line.split() for line in text.splitlines()] == [["a"], ["b", "1"], ["c", "2"]]
