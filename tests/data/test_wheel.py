"""The wheel carries the embedded set and the style of the figures."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w"]
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


def python(*arguments, **options):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_the_wheel_carries_the_embedded_set_and_the_style(tmp_path):
    built = python("-m", *BUILD, tmp_path, ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("impsamp-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    used = python("-c", USE, cwd=site, env={**os.environ, "PYTHONPATH": str(site)})
    assert used.stdout.strip() == "2115", used.stderr
