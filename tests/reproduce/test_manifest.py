"""The manifest: what it may hold, and that this project's fits its notebooks."""

from pathlib import Path

import nbformat
import pytest

from impsamp.errors import RecordError, UnknownName
from impsamp.reproduce import manifest as manifests

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest():
    "The manifest of this project."
    return manifests.load_manifest(ROOT / "nbs/experiments/experiments.toml")


TWICE = """
[[result]]
id = "a"
notebook = "a"
outputs = []

[[result]]
id = "a"
notebook = "a"
outputs = []
"""


@pytest.mark.parametrize(
    "text, message",
    [
        ("[[experiment]]\nid = 'x'\n", "has keys"),
        ("nonsense = [", "experiments.toml"),
        (TWICE, "occurs twice"),
        (TWICE.replace("outputs", "outptus"), "has keys"),
    ],
)
def test_a_bad_manifest_is_refused(project, text, message):
    project.manifest(text)
    with pytest.raises(RecordError, match=message):
        manifests.load_manifest()


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordError, match="inside a checkout"):
        manifests.load_manifest()


def test_full_falls_back_to_the_papers_parameters():
    entry = {"paper": {"runs": 2}}
    assert manifests.entry_parameters(entry, "paper") == {"runs": 2}
    assert manifests.entry_parameters(entry, "full") == {"runs": 2}
    assert manifests.entry_parameters(entry, "smoke") is None
    assert manifests.entry_parameters({**entry, "full": {}}, "full") == {}


def test_declared_parameters_are_those_of_the_tagged_cell(tmp_path):
    nb = nbformat.v4.new_notebook()
    tagged = {"tags": ["parameters"]}
    nb.cells = [
        nbformat.v4.new_code_cell("x = 1"),
        nbformat.v4.new_code_cell("runs = 1  # how many\nsteps = sizes = 2", metadata=tagged),
    ]
    nbformat.write(nb, tmp_path / "x.ipynb")
    assert manifests.declared_parameters(tmp_path / "x.ipynb") == {"runs", "steps", "sizes"}


def test_an_undeclared_parameter_is_refused(tmp_path):
    nb = nbformat.v4.new_notebook()
    nb.cells = [nbformat.v4.new_code_cell("runs = 1", metadata={"tags": ["parameters"]})]
    nbformat.write(nb, tmp_path / "x.ipynb")
    manifests.check_declared(tmp_path / "x.ipynb", {"runs": 2})
    with pytest.raises(UnknownName, match=r"x.ipynb declares no parameter rusn; it has runs"):
        manifests.check_declared(tmp_path / "x.ipynb", {"rusn": 2})


def test_ids_and_profiles_are_those_there_are(manifest):
    manifests.check_ids(manifest, None)
    manifests.check_ids(manifest, ["lahire_anchor", "claims_page"])
    with pytest.raises(UnknownName, match="'lahire_anchro': did you mean 'lahire_anchor'"):
        manifests.check_ids(manifest, ["lahire_anchro"])
    with pytest.raises(UnknownName, match=r"'papre': did you mean 'paper'"):
        manifests.check_profile("papre")


# --- this project


def test_the_manifest_fits_the_notebooks(manifest):
    for kind in ("experiment", "result"):
        folder = ROOT / "nbs" / f"{kind}s"
        known = {entry["notebook"] for entry in manifest[kind]}
        there = {path.name for path in folder.glob("*.ipynb")}
        assert there == known, f"a notebook in nbs/{kind}s without an entry, or an entry without"


def test_the_manifests_parameters_are_declared(manifest):
    for entry in manifest["experiment"]:
        notebook = ROOT / "nbs" / "experiments" / entry["notebook"]
        assert notebook.is_file(), entry["id"]
        declared = manifests.declared_parameters(notebook)
        for profile in manifests.PROFILES:
            asked = set(manifests.entry_parameters(entry, profile) or {})
            assert asked <= declared, (entry["id"], profile)


def test_every_smoke_default_needs_no_download(manifest):
    "What the notebooks' own defaults name is embedded, made, or scikit-learn's."
    for entry in manifest["experiment"]:
        smoke = manifests.entry_parameters(entry, "smoke") or {}
        assert smoke.get("task") != "mnist", entry["id"]
        assert smoke.get("data") != "mnist", entry["id"]
