"""Notebooks are small and clean, experiments have parameters, and nothing names a machine."""

import ast
import json
import re
import subprocess

import pytest

from tests.house.repository import NOTEBOOKS, ROOT, cells, source

EXPERIMENTS = [p for p in NOTEBOOKS if p.parent.name == "experiments"]


@pytest.mark.parametrize("nb", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_small_and_has_no_widget_state(nb):
    size = nb.stat().st_size
    # results are read on a code host, with their pictures
    limit = 1_000_000 if nb.parent.name == "results" else 200_000
    assert size < limit, f"{nb.name} is {size} bytes; the limit is {limit}"
    assert "widgets" not in json.loads(nb.read_text())["metadata"]
    text = json.dumps([c.get("outputs") for c in cells(nb)])
    assert "Traceback (most recent call last)" not in text, "a committed notebook shows a failure"


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")


@pytest.mark.parametrize("nb", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_backslash_was_eaten(nb):
    # `\varphi` written through a careless string becomes a vertical tab and `arphi`
    spoilt = [c["id"] for c in cells(nb) if CONTROL.search(source(c))]
    assert not spoilt, f"control characters in cells {spoilt}"


@pytest.mark.parametrize("nb", EXPERIMENTS, ids=lambda p: p.stem)
def test_experiment_has_literal_parameters_and_no_outputs(nb):
    code = [c for c in cells(nb) if c["cell_type"] == "code"]
    tagged = [c for c in code if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "exactly one cell tagged `parameters`"
    for node in ast.parse(source(tagged[0])).body:
        assert isinstance(node, ast.Assign), "parameters are plain `name = literal`"
        ast.literal_eval(node.value)
    assert all(not c["outputs"] for c in code), "experiments are committed without outputs"
    assert "#| export" not in "".join(map(source, code)), "experiments export nothing"


MACHINE = re.compile(
    r"/home/[a-z]|/root/|/Users/[a-z]|/tmp/[a-z]|/opt/[a-z]"
    r"|pypi\.org|--index-url|find-links|registry\.npmjs|debian\.org"
)
BINARY = {".png", ".npz", ".gz", ".lock"}


def test_nothing_names_a_machine_or_a_registry():
    command = ["git", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    found = []
    for name in listed.split():
        path = ROOT / name
        if path.suffix in BINARY or not path.is_file() or path.samefile(__file__):
            continue
        names = MACHINE.findall(path.read_text(errors="replace"))
        found += [f"{name}: {bad}" for bad in names]
    assert found == []


def test_every_locked_version_runs_on_the_oldest_python():
    """A lock made on a late 3.11 must install on an early one.

    What each locked package says of the interpreter allows 3.11.0."""
    from importlib.metadata import distributions

    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    asks = {}
    for package in distributions():
        name = canonicalize_name(package.metadata["Name"])
        asks[name] = package.metadata.get("Requires-Python") or ""
    both = locked & asks.keys()
    assert len(both) > 50
    refused = {name: asks[name] for name in both if "3.11.0" not in SpecifierSet(asks[name])}
    assert refused == {}


def test_every_locked_package_but_torch_has_hashes():
    "requirements.hashes holds the versions of requirements.lock, and a sha256 of each one's files."
    from packaging.utils import canonicalize_name

    def pinned(line):
        name, _, version = line.split(" ")[0].partition("==")
        return canonicalize_name(name), version

    lock = (ROOT / "requirements.lock").read_text().splitlines()
    hashes = (ROOT / "requirements.hashes").read_text().replace("\\\n", "").splitlines()
    assert {pinned(line) for line in hashes} == {pinned(line) for line in lock} - {
        pinned(line) for line in lock if line.startswith("torch==")
    }
    assert all("--hash=sha256:" in line for line in hashes)


def test_conda_users_get_the_locked_versions_by_their_hashes():
    "environment.yml reads requirements.hashes; torch comes apart, in the version of the lock."
    import yaml

    text = (ROOT / "environment.yml").read_text()
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    read = yaml.safe_load(text)["dependencies"]
    assert read[:2] == ["python=3.11", "pip"]
    assert read[2:] == [{"pip": ["--require-hashes", "-r requirements.hashes"]}]
    assert re.findall(r"pip install (\S+)", text) == [x for x in lock if x.startswith("torch==")]


def test_pip_needs_nothing_without_a_hash():
    """Where one file is checked by its hash pip refuses what has none.

    So all that the locked packages need on this system must be locked: no package may need torch,
    which comes apart."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "requirements.hashes").read_text().splitlines()
    locked = {canonicalize_name(x.split("==")[0]) for x in lines if "==" in x}
    needed = {}
    for name in locked:
        try:
            asked = [Requirement(x) for x in requires(name) or ()]
        except PackageNotFoundError:  # locked for another system
            continue
        here = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
        needed |= {canonicalize_name(r.name): name for r in here}
    assert len(needed) > 50
    unlocked = {name: by for name, by in needed.items() if name not in locked and name != "pip"}
    assert unlocked == {}
