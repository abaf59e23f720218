"""Loaders: embedded, offline, from a server; damaged in every way."""

import gzip
import hashlib
import os
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

import impsamp.data.fetch as impsamp_files
from impsamp.data import mnist as data
from impsamp.errors import ChecksumError, DataError, InvalidArgument, UnknownName

ROOT = Path(__file__).parents[2]
needs_mnist = pytest.mark.skipif(
    not os.environ.get("IMPSAMP_DATA"), reason="needs the whole of MNIST: set IMPSAMP_DATA"
)


def idx(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}i", *array.shape)
        + array.tobytes()
    )


@pytest.fixture
def mini(tmp_path, monkeypatch):
    "A four-image MNIST in IDX form, its checksums in place of the real ones, no IMPSAMP_DATA, an empty cache."
    rng = np.random.default_rng(0)
    content = {}
    for part in ("train", "t10k"):
        content[f"{part}-images-idx3-ubyte"] = idx(
            rng.integers(0, 256, (4, 28, 28), dtype=np.uint8)
        )
        content[f"{part}-labels-idx1-ubyte"] = idx(np.array([0, 1, 2, 1], np.uint8))
    monkeypatch.setattr(
        data, "MNIST_SHA256", {k: hashlib.sha256(v).hexdigest() for k, v in content.items()}
    )
    monkeypatch.delenv("IMPSAMP_DATA", raising=False)
    monkeypatch.setattr(impsamp_files, "cache_dir", lambda: tmp_path / "cache")
    folder = tmp_path / "site"
    folder.mkdir()
    for name, raw in content.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
    return folder


@pytest.fixture
def server():
    "Serves folders on the loopback interface; counts requests; can fail the first few."
    servers = []

    def start(folder, fail_first=0):
        state = {"requests": 0}

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                state["requests"] += 1
                if state["requests"] <= fail_first:
                    return self.send_error(503)
                super().do_GET()

            def log_message(self, *args):
                pass

        httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        servers.append(httpd)
        return f"http://127.0.0.1:{httpd.server_port}/", state

    yield start
    for s in servers:
        s.shutdown()


def test_download_from_the_second_mirror_after_the_first_fails(mini, server, tmp_path):
    good, state = server(mini)
    empty, _ = server(tmp_path / "cache_is_elsewhere")
    images, labels = data.mnist_arrays("train", mirrors=(empty, good))
    assert images.shape == (4, 28, 28) and labels.tolist() == [0, 1, 2, 1]
    before = state["requests"]
    data.mnist_arrays("train", mirrors=(empty, good))
    assert state["requests"] == before, "the cache was not used"


def test_a_passing_fault_is_retried(mini, server):
    url, _ = server(mini, fail_first=1)
    assert data.mnist_arrays("t10k", mirrors=(url,))[0].shape == (4, 28, 28)


@pytest.mark.parametrize("damage", ["truncated", "other content", "no gzip"])
def test_a_bad_download_is_refused_and_removed(mini, server, tmp_path, damage):
    file = mini / "train-images-idx3-ubyte.gz"
    file.write_bytes(
        {
            "truncated": file.read_bytes()[:-20],
            "other content": gzip.compress(b"x" * 99),
            "no gzip": b"<html>",
        }[damage]
    )
    url, _ = server(mini)
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        data.mnist_arrays("train", mirrors=(url,))
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()], (
        "a bad file stayed in the cache"
    )


def test_offline_folder_plain_or_compressed(mini, monkeypatch):
    plain = mini / "train-labels-idx1-ubyte"
    plain.write_bytes(gzip.decompress((mini / "train-labels-idx1-ubyte.gz").read_bytes()))
    (mini / "train-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("IMPSAMP_DATA", str(mini))
    assert data.mnist_arrays("train", mirrors=())[1].tolist() == [0, 1, 2, 1]


def test_a_wrong_local_file_is_an_error_not_a_download(mini, monkeypatch):
    monkeypatch.setenv("IMPSAMP_DATA", str(mini))
    (mini / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(4, np.uint8))))
    with pytest.raises(ChecksumError, match="train-labels"):
        data.mnist_arrays("train", mirrors=())


def test_nothing_to_be_had_says_what_to_do(mini):
    with pytest.raises(DataError, match="IMPSAMP_DATA"):
        data.mnist_arrays("train", mirrors=("http://127.0.0.1:9/",))


def test_data_folder_that_does_not_exist(mini, monkeypatch):
    monkeypatch.setenv("IMPSAMP_DATA", str(mini / "nowhere"))
    with pytest.raises(DataError, match="not a folder"):
        data.mnist_arrays("train", mirrors=())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x09\x01\0\0\0\x01x",
        b"\0\0\x08\x01\0\0\0\x05abc",
        b"\0\0\x08\x03\0\0",
    ],
)
def test_damaged_idx(content):
    with pytest.raises(DataError):
        data.parse_idx(content, "bad")


def test_embedded_set_damaged(monkeypatch, tmp_path):
    (tmp_path / "mnist01.npz").write_bytes(
        (ROOT / "impsamp" / "data" / "mnist01.npz").read_bytes()[:5000]
    )
    monkeypatch.setattr(data, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match="damaged"):
        data.load_mnist01()


def test_arguments():
    with pytest.raises(UnknownName, match="scale"):
        data.load_mnist01(scale="unti")
    with pytest.raises(UnknownName, match="subset"):
        data.load_mnist01(subset="last")
    with pytest.raises(InvalidArgument, match="seed"):
        data.load_mnist01(subset="random")
    with pytest.raises(InvalidArgument, match="seed"):
        data.load_mnist01(seed=3)


def test_scales_are_affine_images_of_each_other():
    unit, raw, standard = (data.load_mnist01(scale=s) for s in ("unit", "raw", "standard"))
    torch.testing.assert_close(raw.x_train / 255, unit.x_train)
    torch.testing.assert_close(
        (unit.x_test - 0.1307) / 0.3081, standard.x_test, atol=1e-5, rtol=1e-5
    )


@needs_mnist
def test_embedded_set_is_written_again_byte_for_byte(tmp_path):
    import runpy

    runpy.run_path(str(ROOT / "data" / "make_mnist01.py"))["main"](tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (
        ROOT / "impsamp" / "data" / "mnist01.npz"
    ).read_bytes()


@needs_mnist
def test_whole_mnist_and_random_subsets():
    split = data.load_mnist()
    assert split.x_train.shape == (60000, 1, 28, 28) and split.x_test.shape == (10000, 1, 28, 28)
    assert split.y_test.bincount().tolist()[:2] == [980, 1135]
    a, b = (data.load_mnist01(subset="random", seed=s) for s in (0, 1))
    assert a.y_train.bincount().tolist() == [50, 50] and not torch.equal(a.x_train, b.x_train)
    assert torch.equal(a.x_train, data.load_mnist01(subset="random", seed=0).x_train)


def test_the_wheel_carries_the_embedded_set_and_the_style(tmp_path):
    import subprocess
    import sys
    import zipfile

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
            str(tmp_path),
            str(ROOT),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("impsamp-*.whl")
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    code = (
        "import impsamp, pathlib; assert pathlib.Path(impsamp.__file__).parent.parent.name == 'site'; "
        "import impsamp.reproduce.figures as f, sys; f.set_style(); assert 'seaborn' not in sys.modules and f.plt.rcParams['font.size'] == 9.6; print(len(impsamp.load_mnist01().y_test))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=target,
        env={**os.environ, "PYTHONPATH": str(target)},
    )
    assert done.stdout.strip() == "2115", done.stderr
