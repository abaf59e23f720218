"""Loaders: embedded, offline, from a server; damaged in every way."""

import gzip
import hashlib
import os
import runpy
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from impsamp.data import mnist as data
from impsamp.errors import ChecksumError, DataError, InvalidArgument, UnknownName

ROOT = Path(__file__).parents[2]
needs_mnist = pytest.mark.skipif(
    not os.environ.get("IMPSAMP_DATA"), reason="needs the whole of MNIST: set IMPSAMP_DATA"
)


def idx(array):
    "An array in IDX form."
    kind = bytes([0, 0, 8, array.ndim])
    shape = struct.pack(f">{array.ndim}i", *array.shape)
    return kind + shape + array.tobytes()


def four_images():
    "File name -> content of a four-image MNIST."
    rng = np.random.default_rng(0)
    content = {}
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (4, 28, 28), dtype=np.uint8)
        content[f"{part}-images-idx3-ubyte"] = idx(images)
        content[f"{part}-labels-idx1-ubyte"] = idx(np.array([0, 1, 2, 1], np.uint8))
    return content


@pytest.fixture
def mini(tmp_path, monkeypatch, empty_cache):
    "A folder with a four-image MNIST, whose checksums stand in place of the real ones."
    content = four_images()
    checksums = {name: hashlib.sha256(raw).hexdigest() for name, raw in content.items()}
    monkeypatch.setattr(data, "MNIST_SHA256", checksums)
    folder = tmp_path / "site"
    folder.mkdir()
    for name, raw in content.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
    return folder


def test_download_from_the_second_mirror_after_the_first_fails(mini, server, tmp_path):
    good, state = server(mini)
    empty, _ = server(tmp_path / "cache_is_elsewhere")
    images, labels = data.mnist_arrays("train", mirrors=(empty, good))
    assert images.shape == (4, 28, 28)
    assert labels.tolist() == [0, 1, 2, 1]
    before = state["requests"]
    data.mnist_arrays("train", mirrors=(empty, good))
    assert state["requests"] == before, "the cache was not used"


def test_a_passing_fault_is_retried(mini, server):
    url, _ = server(mini, fail_first=1)
    assert data.mnist_arrays("t10k", mirrors=(url,))[0].shape == (4, 28, 28)


DAMAGES = {
    "truncated": lambda raw: raw[:-20],
    "other content": lambda raw: gzip.compress(b"x" * 99),
    "no gzip": lambda raw: b"<html>",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_download_is_refused_and_removed(mini, server, empty_cache, damage):
    file = mini / "train-images-idx3-ubyte.gz"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    url, _ = server(mini)
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        data.mnist_arrays("train", mirrors=(url,))
    stayed = [p for p in empty_cache.rglob("*") if p.is_file()]
    assert stayed == [], "a bad file stayed in the cache"


def test_offline_folder_plain_or_compressed(mini, monkeypatch):
    packed = mini / "train-labels-idx1-ubyte.gz"
    plain = mini / "train-labels-idx1-ubyte"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    monkeypatch.setenv("IMPSAMP_DATA", str(mini))
    assert data.mnist_arrays("train", mirrors=())[1].tolist() == [0, 1, 2, 1]


def test_a_wrong_local_file_is_an_error_not_a_download(mini, monkeypatch):
    monkeypatch.setenv("IMPSAMP_DATA", str(mini))
    no_ones = gzip.compress(idx(np.zeros(4, np.uint8)))
    (mini / "train-labels-idx1-ubyte.gz").write_bytes(no_ones)
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


def test_as_many_labels_as_images(mini, monkeypatch):
    name = "train-labels-idx1-ubyte"
    three = idx(np.array([0, 1, 2], np.uint8))
    (mini / f"{name}.gz").write_bytes(gzip.compress(three))
    monkeypatch.setitem(data.MNIST_SHA256, name, hashlib.sha256(three).hexdigest())
    monkeypatch.setenv("IMPSAMP_DATA", str(mini))
    with pytest.raises(DataError, match="4 images but 3 labels"):
        data.mnist_arrays("train", mirrors=())


def test_zeros_and_ones_by_hand():
    labels = np.array([2, 1, 0, 0, 1, 3, 0])
    images = np.arange(7)
    chosen, kept = data.zeros_and_ones(images, labels)
    assert chosen.tolist() == [1, 2, 3, 4, 6]
    assert kept.tolist() == [1, 0, 0, 1, 0]
    chosen, _ = data.zeros_and_ones(images, labels, per_class=1)
    assert chosen.tolist() == [1, 2]
    chosen, kept = data.zeros_and_ones(images, labels, 2, np.random.default_rng(0))
    assert set(chosen) >= {1, 4}
    assert sorted(kept) == [0, 0, 1, 1]


def test_a_split_tells_its_sizes():
    assert repr(data.load_mnist01()) == "Split(100 training items, 2115 test items)"


def test_the_best_constant_answer_by_hand():
    assert data.constant_accuracy(torch.tensor([1, 1, 0, 1])) == 0.75
    assert data.constant_accuracy(data.load_mnist01().y_test) == 1135 / 2115


EMBEDDED = ROOT / "impsamp" / "data" / "mnist01.npz"


def test_embedded_set_damaged(monkeypatch, tmp_path):
    (tmp_path / "mnist01.npz").write_bytes(EMBEDDED.read_bytes()[:5000])
    monkeypatch.setattr(data, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match="damaged"):
        data.load_mnist01()


def test_an_altered_pixel_of_the_embedded_set_is_refused(monkeypatch, tmp_path):
    with np.load(EMBEDDED) as parts:
        arrays = dict(parts)
    arrays["x_test"][2114, 14, 14] ^= 1
    np.savez_compressed(tmp_path / "mnist01.npz", **arrays)
    monkeypatch.setattr(data, "files", lambda package: tmp_path)
    with pytest.raises(ChecksumError, match=r"embedded data set .*: install the package again"):
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
    standardised = (unit.x_test - 0.1307) / 0.3081
    torch.testing.assert_close(standardised, standard.x_test, atol=1e-5, rtol=1e-5)


@needs_mnist
def test_embedded_set_is_written_again_byte_for_byte(tmp_path):
    again = tmp_path / "again.npz"
    script = runpy.run_path(str(ROOT / "data" / "make_mnist01.py"))
    script["main"](again)
    assert again.read_bytes() == EMBEDDED.read_bytes()


@needs_mnist
def test_whole_mnist_and_random_subsets():
    split = data.load_mnist()
    assert split.x_train.shape == (60000, 1, 28, 28)
    assert split.x_test.shape == (10000, 1, 28, 28)
    assert split.y_test.bincount().tolist()[:2] == [980, 1135]
    a, b, again = (data.load_mnist01(subset="random", seed=seed) for seed in (0, 1, 0))
    assert a.y_train.bincount().tolist() == [50, 50]
    assert not torch.equal(a.x_train, b.x_train)
    assert torch.equal(a.x_train, again.x_train)
