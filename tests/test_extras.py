"""What is asked for beyond the library, and the sentence that names what to install."""

import re
import tomllib
from pathlib import Path

import pytest

from impsamp import extras
from impsamp.errors import MissingExtra

ROOT = Path(__file__).parents[1]


def without(monkeypatch, *modules):
    "Make `modules` impossible to find."
    found = extras.find_spec

    def find(name):
        return None if name in modules else found(name)

    monkeypatch.setattr(extras, "find_spec", find)


def test_what_is_installed_is_passed_over():
    extras.require(*extras.EXTRAS.keys() - {"distributed"})


@pytest.mark.parametrize(
    "missing, install",
    [
        (("matplotlib",), "impsamp[plots]"),
        (("papermill",), "impsamp[reproduce]"),
        (("distributed",), "impsamp[cluster]"),
        (("joblib", "filelock"), "impsamp[reproduce]"),
        (("matplotlib", "papermill"), "impsamp[reproduce]"),
        (("distributed", "joblib"), "impsamp[cluster,reproduce]"),
        (("scipy", "matplotlib"), "impsamp[plots]"),
    ],
)
def test_what_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch, missing, install):
    without(monkeypatch, *missing)
    sentence = f"{' and '.join(missing)} cannot be imported: pip install '{install}'"
    with pytest.raises(MissingExtra, match=re.escape(sentence)):
        extras.require(*missing)


def test_what_every_installation_has_comes_with_the_package_itself(monkeypatch):
    without(monkeypatch, "scipy", "numba")
    with pytest.raises(MissingExtra) as refused:
        extras.require("scipy", "numba", "tqdm")
    assert str(refused.value) == "scipy and numba cannot be imported: pip install impsamp"


def test_only_what_is_missing_is_named(monkeypatch):
    without(monkeypatch, "joblib")
    with pytest.raises(MissingExtra, match=r"^joblib cannot be imported"):
        extras.require("filelock", "joblib")


def test_the_table_is_that_of_pyproject():
    "Every module of the table comes with the extra that the table names; dask brings distributed."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brings = {}
    for extra, requirements in project["optional-dependencies"].items():
        brings[extra] = {re.match(r"[a-z0-9-]+", wanted).group() for wanted in requirements}
    brings["cluster"].add("distributed")
    wrong = {
        module: extra for module, extra in extras.EXTRAS.items() if module not in brings[extra]
    }
    assert wrong == {}
    core = {re.match(r"[a-z0-9_-]+", wanted).group() for wanted in project["dependencies"]}
    assert {"scikit-learn" if name == "sklearn" else name for name in extras.CORE} <= core
    assert "impsamp" in brings["reproduce"], "[reproduce] no longer brings [plots]"
