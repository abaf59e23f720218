"""The wheel holds every module of every package, and what they read."""

import os
import subprocess
import sys
import zipfile

import pytest

from tests.house.repository import MODULES, PACKAGE, ROOT, short


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
