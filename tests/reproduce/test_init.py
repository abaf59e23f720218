"""The package: what it exports, what it needs, and the two ways to start it as a command."""

import subprocess
import sys
from pathlib import Path

import pytest

from impsamp import reproduce
from impsamp.reproduce import command, runner

ROOT = Path(__file__).parents[2]


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_the_package_exports_what_a_checkout_needs():
    assert sorted(reproduce.__all__) == ["load_manifest", "main", "run", "write_provenance"]
    assert reproduce.main is command.main
    assert reproduce.run is runner.run


def test_importing_the_package_imports_no_extra():
    code = (
        "import sys, impsamp.reproduce\n"
        "from impsamp.extras import EXTRAS\n"
        "print(sorted(set(EXTRAS) & set(sys.modules)))"
    )
    assert python("-c", code).stdout == "[]\n"


@pytest.mark.parametrize("module", ["impsamp", "impsamp.reproduce"])
def test_the_package_is_a_command(module):
    done = python("-m", module, "list")
    assert done.returncode == 0, done.stderr
    assert "horvath_claims" in done.stdout
    refused = python("-m", module, "run", "--profile", "papre")
    assert refused.returncode == 1
    assert refused.stderr.startswith("impsamp: unknown profile 'papre'")


def test_what_every_notebook_is_run_by_does_not_load_torch():
    "A second of each of some forty notebooks, and of every `--help`."
    code = "import sys, impsamp.reproduce.child, impsamp.reproduce.figures; print(*sys.modules)"
    loaded = python("-c", code).stdout.split()
    assert "impsamp.reproduce.child" in loaded
    assert {"torch", "seaborn", "numba"}.isdisjoint(loaded)
