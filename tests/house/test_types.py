"""What editors and type checkers see of the package."""

import inspect
import subprocess
import sys
from pathlib import Path

import jedi
import pytest

import impsamp
from tests.house.repository import GENERATED, ROOT, short

BIN = Path(sys.executable).parent


def test_an_editor_completes_the_public_names_and_no_internals():
    script = jedi.Script("import impsamp\nimpsamp.", project=jedi.Project(ROOT))
    names = {c.name for c in script.complete(2, len("impsamp."))}
    assert set(impsamp.__all__) <= names


@pytest.mark.parametrize("name", ["SVRG", "grad_norms", "minimize", "Thinning", "Stale"])
def test_an_editor_shows_a_signature(name):
    code = f"from impsamp import {name}\n{name}("
    script = jedi.Script(code, project=jedi.Project(ROOT))
    (signature,) = script.get_signatures(2, len(f"{name}("))
    shown = [p.name for p in signature.params]
    real = [p for p in inspect.signature(getattr(impsamp, name)).parameters if p != "self"]
    assert shown == real


def test_dir_shows_public_names_first_of_all():
    shown = {n for n in dir(impsamp) if not n.startswith("_")}
    packages = {short(m.parent).replace("/", ".") for m in GENERATED}
    modules = {m.stem for m in GENERATED if m.parent.name == "impsamp"}
    known = set(impsamp.__all__) | modules | {p.rpartition(".")[2] for p in packages}
    assert shown - known == set()


def test_the_package_is_typed_as_it_says():
    done = subprocess.run(
        [str(BIN / "mypy"), "--config-file", str(ROOT / "pyproject.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
