"""Where files lie, how they are unpacked and checked, and what is said when there are none."""

import bz2
import gzip
import hashlib
import lzma
import os
import time
from pathlib import Path

import pytest

from impsamp.data.fetch import (
    cache_dir,
    data_dir,
    find_local,
    obtain,
    project_root,
    read_bytes,
    resolve_data_env,
)
from impsamp.errors import ChecksumError, DataError, DataUnavailable

ROOT = Path(__file__).parents[2]
CONTENT = b"0123456789"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PACKED = {
    "": CONTENT,
    ".gz": gzip.compress(CONTENT, mtime=0),
    ".bz2": bz2.compress(CONTENT),
    ".xz": lzma.compress(CONTENT),
}


def test_the_root_is_the_checkout():
    assert project_root(ROOT / "impsamp" / "data") == ROOT
    assert project_root(ROOT) == ROOT


def test_outside_of_a_checkout_the_folder_itself_is_the_root(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = another\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert project_root() == inner.resolve()


@pytest.mark.parametrize("value", [None, ""])
def test_no_data_folder_is_named(monkeypatch, value):
    monkeypatch.delenv("IMPSAMP_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("IMPSAMP_DATA", value)
    assert data_dir() is None
    assert resolve_data_env() is None
    assert find_local("digits") is None


def test_a_relative_data_folder_is_looked_for_here_then_at_the_root(tmp_path, monkeypatch):
    root = tmp_path / "checkout"
    here = root / "nbs"
    (here / "near").mkdir(parents=True)
    (root / "settings.ini").write_text("lib_name = impsamp\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("IMPSAMP_DATA", "near")
    assert data_dir() == (here / "near").resolve()
    monkeypatch.setenv("IMPSAMP_DATA", "far")
    assert data_dir() == (root / "far").resolve()


def test_the_environment_is_made_absolute_once(tmp_path, monkeypatch):
    (tmp_path / "sets").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPSAMP_DATA", "sets")
    folder = resolve_data_env()
    assert folder == (tmp_path / "sets").resolve()
    assert os.environ["IMPSAMP_DATA"] == str(folder)
    monkeypatch.chdir("/")
    assert data_dir() == folder


def test_the_cache_is_the_users():
    assert "impsamp" in str(cache_dir())


@pytest.mark.parametrize("ending", PACKED)
def test_every_ending_is_unpacked(tmp_path, ending):
    path = tmp_path / f"digits{ending}"
    path.write_bytes(PACKED[ending])
    assert read_bytes(path) == CONTENT
    assert read_bytes(str(path), SHA256) == CONTENT


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])
def test_a_truncated_or_plain_file_is_no_packed_one(tmp_path, ending):
    path = tmp_path / f"digits{ending}"
    for damaged in (PACKED[ending][:-4], CONTENT):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"digits{ending} cannot be read .*not a {ending}"):
            read_bytes(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"digits cannot be read .*not a plain file"):
        read_bytes(tmp_path / "digits")


def test_a_wrong_file_is_refused(tmp_path):
    path = tmp_path / "digits"
    path.write_bytes(b"other")
    with pytest.raises(ChecksumError, match=f"expected {SHA256}: a wrong or altered file"):
        read_bytes(path, SHA256)


@pytest.mark.parametrize("subfolder", ["", "sets"])
@pytest.mark.parametrize("ending", PACKED)
def test_a_local_file_is_found_packed_or_not(tmp_path, monkeypatch, subfolder, ending):
    path = tmp_path / subfolder / f"digits{ending}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(PACKED[ending])
    monkeypatch.setenv("IMPSAMP_DATA", str(tmp_path))
    assert find_local("digits", "sets") == path
    assert find_local("letters", "sets") is None


def test_the_subfolder_goes_first(tmp_path, monkeypatch):
    (tmp_path / "sets").mkdir()
    for folder in (tmp_path, tmp_path / "sets"):
        (folder / "digits").write_bytes(CONTENT)
    monkeypatch.setenv("IMPSAMP_DATA", str(tmp_path))
    assert find_local("digits", "sets") == tmp_path / "sets" / "digits"


def test_a_data_folder_that_does_not_exist_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPSAMP_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere, which is not a folder: correct it"):
        find_local("digits")


@pytest.fixture
def site(tmp_path):
    "A folder to serve, with one packed file."
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "digits.gz").write_bytes(PACKED[".gz"])
    return folder


def obtain_digits(*urls, **options):
    return obtain("digits", urls=[url + "digits.gz" for url in urls], progress=False, **options)


def test_a_download_is_kept(empty_cache, server, site):
    url, state = server(site)
    for _ in range(2):
        assert obtain_digits(url, sha256=SHA256, subfolder="sets") == CONTENT
    assert state["requests"] == 1
    assert (empty_cache / "sets" / "digits.gz").is_file()


def test_a_local_file_needs_no_download(server, site, monkeypatch):
    url, state = server(site)
    monkeypatch.setenv("IMPSAMP_DATA", str(site))
    assert obtain_digits(url, sha256=SHA256) == CONTENT
    assert state["requests"] == 0


def test_a_wrong_local_file_is_an_error_not_a_download(server, site, monkeypatch):
    url, state = server(site)
    monkeypatch.setenv("IMPSAMP_DATA", str(site))
    with pytest.raises(ChecksumError, match=r"digits\.gz"):
        obtain_digits(url, sha256="0" * 64)
    assert state["requests"] == 0


def test_the_next_mirror_is_asked(empty_cache, server, site, tmp_path):
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "digits.gz").write_bytes(gzip.compress(b"other", mtime=0))
    wrong, _ = server(tmp_path / "wrong")
    good, _ = server(site)
    assert obtain_digits(wrong, good, sha256=SHA256) == CONTENT


def test_a_passing_fault_is_retried(empty_cache, server, site):
    url, state = server(site, fail_first=1)
    assert obtain_digits(url) == CONTENT
    assert state["requests"] == 2


def test_a_bad_download_does_not_stay(empty_cache, server, site):
    url, _ = server(site)
    with pytest.raises(DataError, match="expected 000"):
        obtain_digits(url, sha256="0" * 64)
    assert not (empty_cache / "digits.gz").exists()


def test_everything_that_was_tried_is_told(empty_cache):
    with pytest.raises(DataError, match="no download address is known for it"):
        obtain("digits")
    both = f"'digits' cannot be had.*\n  {CLOSED}.*\n  {CLOSED}"
    with pytest.raises(DataUnavailable, match=both):
        obtain_digits(CLOSED, CLOSED)


# --- what cannot be had, and what is wrong


CLOSED = "http://127.0.0.1:9/"


def test_a_closed_port_and_a_name_that_is_none_are_not_waited_for(empty_cache):
    began = time.monotonic()
    with pytest.raises(DataUnavailable, match=r"nowhere\.invalid"):
        obtain_digits(CLOSED, "http://nowhere.invalid/", retries=3)
    assert time.monotonic() - began < 20


def test_a_page_that_does_not_exist_is_asked_for_once(empty_cache, server, tmp_path):
    url, state = server(tmp_path)
    with pytest.raises(DataUnavailable, match=rf"{url}digits\.gz: HTTP 404"):
        obtain_digits(url, retries=3)
    assert state["requests"] == 1


def test_a_wrong_file_at_any_mirror_is_more_than_absence(empty_cache, server, site):
    url, _ = server(site)
    for urls in ((CLOSED, url), (url, CLOSED)):
        with pytest.raises(ChecksumError, match=f"{url}digits.gz: .*expected 000"):
            obtain_digits(*urls, sha256="0" * 64)


def test_a_local_folder_without_the_file_is_absence(monkeypatch, tmp_path, empty_cache):
    monkeypatch.setenv("IMPSAMP_DATA", str(tmp_path))
    with pytest.raises(DataUnavailable):
        obtain_digits(CLOSED)


def test_a_folder_that_is_none_is_not_absence(monkeypatch, tmp_path):
    monkeypatch.setenv("IMPSAMP_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="not a folder") as raised:
        obtain_digits(CLOSED)
    assert not isinstance(raised.value, DataUnavailable)


@pytest.mark.parametrize(
    "damage", [b"", b"garbage", gzip.compress(b"other", mtime=0), PACKED[".gz"][:-4]]
)
def test_a_corrupt_cached_file_is_fetched_again_in_the_same_call(empty_cache, server, site, damage):
    url, state = server(site)
    (empty_cache / "sets").mkdir(parents=True)
    (empty_cache / "sets" / "digits.gz").write_bytes(damage)
    assert obtain_digits(url, sha256=SHA256, subfolder="sets") == CONTENT
    assert state["requests"] == 1


def test_a_cache_that_cannot_be_written_is_named(server, site, empty_cache):
    url, _ = server(site)
    empty_cache.write_text("a file where the folder should be")
    with pytest.raises(DataUnavailable, match=r"digits\.gz: .*Error"):
        obtain_digits(url)


# --- servers with ideas of their own


def answer(handler, body, encoding=None, length=None):
    "A 200 answer with `body`."
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    if encoding:
        handler.send_header("Content-Encoding", encoding)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("called", ["its own packing", "one more packing"])
def test_content_encoding_is_taken_off(empty_cache, server, site, ending, called):
    "A server that calls the packing of a .gz file an encoding, or packs any file once more."
    if called == "its own packing" and ending != ".gz":
        pytest.skip("only gzip is an encoding")
    sent = PACKED[ending]
    if called == "one more packing":
        sent = gzip.compress(sent, mtime=0)
    url, state = server(site, get=lambda handler: answer(handler, sent, "gzip"))
    for _ in range(2):
        found = obtain("digits", urls=[f"{url}digits{ending}"], sha256=SHA256, progress=False)
        assert found == CONTENT
    assert state["requests"] == 1
    assert read_bytes(empty_cache / f"digits{ending}") == CONTENT


def test_another_encoding_is_refused_by_name(empty_cache, server, site):
    url, _ = server(site, get=lambda handler: answer(handler, b"x", "br"))
    with pytest.raises(DataUnavailable, match="Content-Encoding 'br'"):
        obtain_digits(url, retries=0)


def test_a_body_that_is_cut_off_is_tried_again(empty_cache, server, site):
    body = PACKED[".gz"]
    sent = iter([body[:5], body])
    url, state = server(site, get=lambda handler: answer(handler, next(sent), length=len(body)))
    assert obtain_digits(url, sha256=SHA256) == CONTENT
    assert state["requests"] == 2


def drip(handler):
    "A byte every tenth of a second, for ever."
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"x")
            time.sleep(0.1)
    except OSError:
        pass


def test_a_dripping_server_is_left_when_the_time_is_over(empty_cache, server, site):
    slow, _ = server(site, get=drip)
    began = time.monotonic()
    with pytest.raises(DataUnavailable, match="time limit of the download is over"):
        obtain_digits(slow, slow, seconds=0.6)
    assert time.monotonic() - began < 20
    assert not list(empty_cache.glob("*"))


def test_a_time_limit_is_a_number_above_zero():
    with pytest.raises(ValueError, match="seconds"):
        obtain_digits(CLOSED, seconds=0)
