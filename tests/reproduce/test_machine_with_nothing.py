"""A machine without data and network: what cannot be had is kept, and everything says so."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from impsamp.data.fetch import data_dir

ROOT = Path(__file__).parents[2]
ONE = "horvath_constants"  # seven settings, one of which needs no download
KEPT = "kept from committed records, because 'australian' cannot be had"


def committed():
    "The bytes of the committed record and of its provenance."
    return [(ROOT / "data/records" / f"{ONE}.{ending}").read_bytes() for ending in ("csv", "json")]


@pytest.fixture
def reproduce(nothing, tmp_path):
    "reproduce(*words, data=None) -> a finished command that writes elsewhere."

    def run(*words, data=None):
        environment = nothing | {"IMPSAMP_OUTPUT": str(tmp_path / "out")}
        if data is not None:
            environment["IMPSAMP_DATA"] = str(data)
        command = [sys.executable, "-m", "impsamp.reproduce", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    return run


def test_what_cannot_be_had_is_kept_and_said(reproduce, tmp_path):
    before = committed()
    done = reproduce("run", ONE)
    assert done.returncode == 0, done.stderr
    assert f"australian pm1: {KEPT}" in done.stdout
    assert "1 computed, 6 kept from committed records" in done.stdout
    assert (tmp_path / "out/data/records" / f"{ONE}.csv").read_bytes() == before[0]
    assert not (tmp_path / "out/data/records" / f"{ONE}.json").exists()
    own = json.loads((tmp_path / "out/_runs/paper/provenance" / f"{ONE}.json").read_text())
    assert own["settings"]["breast_cancer"] == "computed"
    assert own["settings"]["australian"] == KEPT
    assert committed() == before


def test_strict_ends_with_one(reproduce):
    done = reproduce("run", ONE, "--strict")
    assert done.returncode == 1
    assert "--strict: 6 settings were kept from committed records" in done.stderr


def test_a_wrong_file_ends_with_one(reproduce, tmp_path):
    "One altered byte where there is the real file, else a file that was never right."
    folder = tmp_path / "sets" / "libsvm"
    folder.mkdir(parents=True)
    content = b"+1 1:1\n"
    if data_dir() is not None and (data_dir() / "libsvm/australian").is_file():
        content = (data_dir() / "libsvm/australian").read_bytes()
        content = content[:100] + bytes([content[100] ^ 1]) + content[101:]
    (folder / "australian").write_bytes(content)
    done = reproduce("run", ONE, data=tmp_path / "sets")
    assert done.returncode == 1
    assert "ChecksumError" in done.stderr
    assert "failed" in done.stdout


def test_a_data_folder_that_is_none_ends_with_one(reproduce, tmp_path):
    done = reproduce("run", ONE, data=tmp_path / "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("impsamp: IMPSAMP_DATA names ")
    assert "correct it or unset it" in done.stderr


@pytest.mark.full
def test_an_experiment_whose_data_cannot_be_had_at_all_is_kept(reproduce):
    done = reproduce("run", "--profile", "full", "assess_mnist")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    sentence = "kept from committed records, because 'train-images-idx3-ubyte' cannot be had"
    assert f"all: {sentence}" in done.stdout
    assert "0 computed, 1 kept from committed records" in done.stdout


@pytest.mark.full
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to take the network")
def test_names_that_cannot_be_resolved(nothing, tmp_path):
    "Without any network: a name space of its own, in which there is not even a loopback."
    probe = subprocess.run(["unshare", "-rn", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("this system does not let us take the network away")
    environment = {name: value for name, value in nothing.items() if "proxy" not in name.lower()}
    environment["IMPSAMP_OUTPUT"] = str(tmp_path / "out")
    code = (
        "from impsamp.data import load_libsvm, load_mnist\n"
        "from impsamp.errors import DataUnavailable\n"
        "for load in (lambda: load_libsvm('splice'), load_mnist):\n"
        "    try: load()\n"
        "    except DataUnavailable as e: print(e)\n"
    )
    command = ["unshare", "-rn", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'splice' cannot be had" in done.stdout
    assert "'train-images-idx3-ubyte' cannot be had" in done.stdout
