"""Machine code is kept for this user alone, found by later processes, and never the wrong one."""

import os
import pickle
import pkgutil
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import impsamp
from impsamp import kernels
from impsamp.kernels import (
    KernelCache,
    cached_njit,
    is_private,
    kernel_folder,
    kernel_root,
    read_kernel,
    uninterrupted,
    write_kernel,
)

# The smallest kernels of the library, one of them with two signatures: half a second to compile.
SCRIPT = """
import numpy as np
from impsamp.linear import blocks
hits = 0
for p in (np.array([.5, .25, .25]), np.array([3, 1], np.float32)):
    accept, alias = blocks._alias_table(p)
table = blocks._alias_table
assert table(np.array([1., 1.]))[0].tolist() == [1., 1.]
print(sum(table.stats.cache_hits.values()), sum(table.stats.cache_misses.values()))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    "The cache of a test: below a folder that does not exist yet."
    root = tmp_path / "some" / "cache"
    monkeypatch.setenv("IMPSAMP_KERNEL_CACHE", str(root))
    return root


def hits_and_misses():
    "Of a fresh process that compiles two signatures."
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return tuple(map(int, done.stdout.split()))


def test_processes_that_start_together_and_one_that_starts_later(folder):
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(hits_and_misses) for _ in range(2)]
    assert all(sum(run.result()) == 2 for run in runs)
    (versions,) = folder.iterdir()
    files = list(versions.iterdir())
    assert len(files) == 2, "nothing half written is left"
    assert {f.suffix for f in files} == {".kernel"}
    assert stat.S_IMODE(versions.stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    damage(files[0])
    assert hits_and_misses() == (1, 1), "a damaged file is compiled anew"
    assert hits_and_misses() == (2, 0), "and replaced"


def damage(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_what_changes_the_code_changes_the_folder(monkeypatch):
    import numba

    before = kernels._version()
    for option in ("BOUNDSCHECK", "OPT"):
        with monkeypatch.context() as patch:
            patch.setattr(numba.config, option, "changed")
            assert kernels._version.__wrapped__() != before
    with monkeypatch.context() as patch:
        patch.setattr(numba, "__version__", "0")
        assert kernels._version.__wrapped__() != before
    assert kernels._version.__wrapped__() == before


def test_the_switch(monkeypatch, tmp_path):
    for off in ("off", "0", " OFF ", "no", "false"):
        monkeypatch.setenv("IMPSAMP_KERNEL_CACHE", off)
        assert kernel_root() is None
        assert kernel_folder() is None
    monkeypatch.setenv("IMPSAMP_KERNEL_CACHE", "~/kernels")
    assert kernel_root() == Path.home() / "kernels"
    monkeypatch.setenv("IMPSAMP_KERNEL_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert "impsamp" in kernel_root().parts


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    monkeypatch.delenv("IMPSAMP_KERNEL_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: "~/.cache/impsamp")
    assert kernel_folder() is None


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o755, 0o720])
def test_a_folder_that_others_may_use_is_refused(mode):
    kernel_folder().chmod(mode)
    kernels._private_folder.cache_clear()
    with pytest.warns(RuntimeWarning, match="not this user's alone.*mode 0700") as seen:
        assert kernel_folder() is None
        assert kernel_folder() is None
    assert len(seen) == 1


def test_a_folder_of_another_user_is_refused(monkeypatch):
    mine = kernel_folder()
    kernels._private_folder.cache_clear()
    other = list(mine.stat())
    other[stat.ST_UID] += 1
    monkeypatch.setattr(Path, "lstat", lambda self: os.stat_result(other))
    with pytest.warns(RuntimeWarning, match="not this user's alone"):
        assert kernel_folder() is None


def test_a_link_to_a_folder_is_refused(tmp_path, folder):
    real = kernel_folder()
    elsewhere = real.rename(tmp_path / "elsewhere")
    real.symlink_to(elsewhere)
    kernels._private_folder.cache_clear()
    with pytest.warns(RuntimeWarning, match="not this user's alone"):
        assert kernel_folder() is None


def test_a_file_that_others_may_write_is_not_read():
    mine = kernel_folder()
    write_kernel(mine, "key", b"code")
    (file,) = mine.iterdir()
    assert read_kernel(mine, "key") == b"code"
    file.chmod(0o666)
    assert read_kernel(mine, "key") is None


@pytest.mark.parametrize("where", ["file", "below a file", "unwritable"])
def test_a_folder_that_cannot_be_made_costs_only_time(where, tmp_path, monkeypatch, recwarn):
    blocked = tmp_path / "blocked"
    root = blocked if where == "file" else blocked / "cache"
    if where == "unwritable":
        blocked.mkdir(mode=0o500)

        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied", str(root))

        monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere
    else:
        blocked.write_text("")
    monkeypatch.setenv("IMPSAMP_KERNEL_CACHE", str(root))
    assert kernel_folder() is None
    assert not recwarn.list
    assert fresh_kernel()(np.ones(2))[1].tolist() == [0, 1]


def test_a_disk_that_fills_up_costs_only_time(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_kernel(kernel_folder(), "key", b"code")
    assert list(kernel_folder().iterdir()) == []
    kernel = fresh_kernel()
    assert kernel(np.array([1.0, 1.0]))[1].tolist() == [0, 1]
    assert list(kernel_folder().iterdir()) == []


def fresh_kernel():
    "`_alias_table`, not compiled yet."
    from impsamp.linear import blocks

    return cached_njit()(blocks._alias_table.py_func)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 5000, pickle.dumps(("no", "code"))])
def test_what_is_no_kernel_is_compiled_anew(content):
    first = fresh_kernel()
    first(np.ones(2))
    (file,) = kernel_folder().iterdir()
    # once as a file, once as a well-formed file of another content
    file.write_bytes(content)
    second = fresh_kernel()
    assert second(np.ones(2))[1].tolist() == [0, 1]
    assert sum(second.stats.cache_misses.values()) == 1
    key = second._cache._key(*key_of(second))
    write_kernel(kernel_folder(), key, content)
    third = fresh_kernel()
    assert third(np.ones(2))[1].tolist() == [0, 1]
    assert sum(third.stats.cache_misses.values()) == 1
    fourth = fresh_kernel()
    fourth(np.ones(2))
    assert sum(fourth.stats.cache_hits.values()) == 1


def key_of(kernel):
    (signature,) = kernel.stats.cache_misses
    return signature, kernel.targetctx.codegen()


def test_nothing_is_kept_once_a_source_has_changed(monkeypatch):
    monkeypatch.setattr(kernels, "source_digest", lambda: "another")
    fresh_kernel()(np.ones(2))
    assert list(kernel_folder().iterdir()) == []


def test_a_function_from_elsewhere_is_compiled_and_not_kept():
    scale = 2

    @cached_njit()
    def own(x):
        return scale * x

    assert own(4) == 8
    assert not isinstance(own._cache, KernelCache)
    assert list(kernel_folder().iterdir()) == []


def test_disabled_and_flushed():
    kernel = fresh_kernel()
    assert kernel.stats.cache_path == str(kernel_folder())
    kernel._cache.disable()
    kernel._cache.flush()
    kernel(np.ones(2))
    assert list(kernel_folder().iterdir()) == []


def test_old_versions_are_removed(folder):
    names = [kernels._version()[:-16] + f"{k:016x}" for k in range(12)]
    for age, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.kernel").write_text("")
        os.utime(folder / name, (age, age))
    (folder / "mine").mkdir()
    now = kernel_folder()
    left = {f.name for f in folder.iterdir()}
    assert left == {"mine", now.name, *names[-7:]}


def test_a_source_that_is_pasted_in_changes_the_folder(monkeypatch, tmp_path):
    copy = tmp_path / "impsamp"
    (copy / "linear").mkdir(parents=True)
    source = copy / "linear" / "dense_kernels.py"
    source.write_text("AHEAD = 8")
    monkeypatch.setattr(impsamp, "__path__", [str(copy)])
    before = kernels.source_digest()
    source.write_text("AHEAD = 9")
    assert kernels.source_digest() != before
    source.unlink()
    assert kernels.source_digest() == ""


def test_without_sources_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(kernels, "_SOURCES", "")
    assert kernel_folder() is None


def test_where_there_are_no_owners_the_profile_is_trusted(monkeypatch):
    assert not is_private(os.stat_result([0o100666, *[0] * 9]))
    monkeypatch.delattr(os, "geteuid")
    assert is_private(os.stat_result([0o100666, *[0] * 9]))


def test_every_kernel_of_the_library_is_kept():
    "A dispatcher is either pasted into others, or keeps its machine code."
    from numba.core.dispatcher import Dispatcher

    seen = 0
    for package in ("impsamp.linear", "impsamp.samplers"):
        for found in pkgutil.iter_modules(import_module(package).__path__, package + "."):
            module = import_module(found.name)
            for name, thing in vars(module).items():
                if not isinstance(thing, Dispatcher):
                    continue
                options = thing.targetoptions
                pasted = options.get("forceinline") or options.get("inline") == "always"
                seen += not pasted
                assert pasted or isinstance(thing._cache, KernelCache), f"{found.name}.{name}"
    assert seen >= 8


class TestCtrlC:
    "`uninterrupted`: the interrupt comes, and comes after the block."

    @pytest.fixture(autouse=True)
    def ctrl_c(self):
        "As in a terminal: a job in the background begins with Ctrl-C ignored."
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    def test_it_waits_for_the_block(self):
        done = []
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("block")
        assert done == ["block"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_a_handler_of_the_caller_is_asked(self):
        called = []
        before = signal.signal(signal.SIGINT, lambda number, frame: called.append(number))
        try:
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
                assert called == []
        finally:
            signal.signal(signal.SIGINT, before)
        assert called == [signal.SIGINT]

    def test_other_threads_are_left_alone(self):
        before = signal.getsignal(signal.SIGINT)
        seen = []

        def work():
            with uninterrupted():
                seen.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [before]

    def test_an_error_of_the_block_passes(self):
        with pytest.raises(ZeroDivisionError), uninterrupted():
            raise ZeroDivisionError
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
