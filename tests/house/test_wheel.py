"""Wheel and source archive: whole, without warnings, the same bytes for the same files."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from email import message_from_string
from hashlib import sha256

import pytest

import impsamp
from tests.house.repository import MODULES, PACKAGE, ROOT, short
from tests.house.same_bytes import write_again


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "impsamp"):
        (source / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(folder),
            str(source),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("impsamp-*.whl")
    return path


def test_every_module_and_data_file_is_in_the_wheel(wheel):
    held = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("impsamp/")}
    data = {
        short(p) for end in ("*.npz", "*.mplstyle", "*.j2", "py.typed") for p in PACKAGE.rglob(end)
    }
    assert len(data) == 4
    assert held - {"impsamp/_modidx.py"} == {short(m) for m in MODULES} | data


def test_public_names_come_from_the_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import impsamp; from pathlib import Path\n"
        f"assert Path(impsamp.__file__).is_relative_to({str(tmp_path)!r})\n"
        "print(len([getattr(impsamp, name) for name in impsamp.__all__]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 90


USE = """
import pathlib
import sys

import impsamp
import impsamp.reproduce.figures as figures

assert pathlib.Path(impsamp.__file__).parent.parent.name == "site"
figures.set_style()
assert "seaborn" not in sys.modules
assert figures.plt.rcParams["font.size"] == 9.6
print(len(impsamp.load_mnist01().y_test))
"""


def test_the_wheel_carries_the_embedded_set_and_the_style(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    used = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert used.stdout.strip() == "2115", used.stderr


def metadata(wheel):
    held = zipfile.ZipFile(wheel)
    (name,) = [n for n in held.namelist() if n.endswith(".dist-info/METADATA")]
    return message_from_string(held.read(name).decode())


def test_the_metadata_says_licence_version_and_extras(wheel):
    found = metadata(wheel)
    assert found["License-Expression"] == "MIT"
    assert found["License-File"] == "LICENSE"
    assert found["Version"] == impsamp.__version__
    extras = {"plots", "theory", "reproduce", "docs", "integrations", "cluster", "dev", "tutorials"}
    assert extras <= set(found.get_all("Provides-Extra"))
    classifiers = found.get_all("Classifier")
    assert not [c for c in classifiers if c.startswith("License ::")], "PEP 639 has one place"
    assert "Typing :: Typed" in classifiers


def test_the_version_is_said_once_and_the_others_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project and "version" in project["dynamic"]
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini")
    assert settings["DEFAULT"]["version"] == impsamp.__version__
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited.group(1) == impsamp.__version__


def built(target, seconds_later):
    "Hashes of wheel and source archive of a copy of the files, written at another time."
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, target / "impsamp", ignore=skip)
    for path in target.rglob("*"):
        os.utime(path, (1.7e9 + seconds_later,) * 2)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1760000000"}
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."]
    done = subprocess.run(command, cwd=target, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "warning" not in said.lower() and "deprecat" not in said.lower(), said
    (archive,) = (target / "dist").glob("*.tar.gz")
    write_again(archive, 1_760_000_000)
    return {p.name: sha256(p.read_bytes()).hexdigest() for p in (target / "dist").iterdir()}


@pytest.mark.full
def test_two_builds_are_one_and_nothing_is_warned_of(tmp_path):
    first = built(tmp_path / "first", 0)
    second = built(tmp_path / "second", 1000)
    assert len(first) == 2
    assert first == second


@pytest.mark.full
def test_the_archive_holds_what_the_wheel_is_built_from(tmp_path):
    built(tmp_path / "source", 0)
    (archive,) = (tmp_path / "source" / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    data = {short(p) for end in ("*.npz", "*.mplstyle", "*.j2") for p in PACKAGE.rglob(end)}
    assert {short(m) for m in MODULES} | data | {"LICENSE", "README.md"} <= names
    assert "impsamp/py.typed" in names
