"""Invariants of the repository: layers, generated files, notebooks, public names."""
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
NOTEBOOKS = [p for p in NOTEBOOKS if not any(part.startswith((".", "_")) for part in p.relative_to(ROOT).parts)]
MODULES = sorted(p for p in (ROOT / "impsamp").glob("*.py") if not p.name.startswith("_"))


def cells(path): return json.loads(path.read_text())["cells"]


def source(cell): return "".join(cell["source"])


def order(number):
    "Rooms 09a, 09b come before their door 09; a bare number sorts after its letters."
    digits, letter = re.fullmatch(r"(\d+)([a-z]?)", number).groups()
    return int(digits), letter or "~"


def edited_in(module):
    "The notebook number in a generated header, such as 09 or 09a."
    return re.search(r"File to edit: \.\./nbs/(\d+[a-z]?)_\w+\.ipynb", module.read_text()).group(1)


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)
def test_imports_point_down(module):
    mine = order(edited_in(module))
    for node in ast.walk(ast.parse(module.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert not any(a.name == "*" for a in node.names), f"{module.name}: star import"
            base = node.module or ""
            if node.level or base.startswith("impsamp"):
                base = base.removeprefix("impsamp").lstrip(".")
                names = [base] if base else [a.name for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name.removeprefix("impsamp.") for a in node.names if a.name.startswith("impsamp.")]
        for name in names:
            other = ROOT / "impsamp" / f"{name.split('.')[0]}.py"
            if other in MODULES:
                assert order(edited_in(other)) < mine, f"{module.name} imports {other.name}, which stands above it"


def test_generated_files_are_what_the_notebooks_say(tmp_path):
    for name in ("nbs", "settings.ini", "pyproject.toml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "impsamp").mkdir()
    shutil.copy(ROOT / "impsamp" / "__init__.py", tmp_path / "impsamp")
    subprocess.run([str(Path(sys.executable).with_name("nbdev_export"))], cwd=tmp_path, check=True, capture_output=True)
    fresh = {p.name: p.read_text() for p in (tmp_path / "impsamp").glob("*.py") if not p.name.startswith("_")}
    here = {p.name: p.read_text() for p in MODULES}
    assert sorted(fresh) == sorted(here), "a module without a notebook, or the other way round: run `make export`"
    assert [n for n in fresh if fresh[n] != here[n]] == [], "edited by hand or not exported: run `make export`"


def test_public_names_resolve():
    code = ("import sys, impsamp; heavy = {'numba', 'sklearn', 'pandas', 'matplotlib', 'sympy', 'papermill'} & set(sys.modules);"
            "assert not heavy, heavy; [getattr(impsamp, n) for n in impsamp.__all__]; print(len(impsamp.__all__))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_unknown_public_name_is_an_attribute_error():
    import impsamp
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"): impsamp.nonsense


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)
def test_library_code_uses_no_global_randomness_and_unpickles_nothing(module):
    for bad in ("np.random.seed", "torch.manual_seed(", "torch.load(", "pickle.load", "joblib.Memory", "allow_pickle=True", "cache=True"):
        assert bad not in module.read_text(), f"{module.name} uses {bad}"


@pytest.mark.parametrize("nb", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_small_and_has_no_widget_state(nb):
    assert nb.stat().st_size < 200_000, f"{nb.name} is {nb.stat().st_size} bytes; the limit is 200 kB"
    assert "widgets" not in json.loads(nb.read_text())["metadata"]
    text = nb.read_text()
    assert "Traceback (most recent call last)" not in text, "a committed notebook shows a failure"


@pytest.mark.parametrize("nb", [p for p in NOTEBOOKS if p.parent.name == "experiments"], ids=lambda p: p.stem)
def test_experiment_has_literal_parameters_and_no_outputs(nb):
    code = [c for c in cells(nb) if c["cell_type"] == "code"]
    tagged = [c for c in code if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "exactly one cell tagged `parameters`"
    for node in ast.parse(source(tagged[0])).body:
        assert isinstance(node, ast.Assign), "parameters are plain `name = literal`"
        ast.literal_eval(node.value)
    assert all(not c["outputs"] for c in code), "experiments are committed without outputs"
    assert "#| export" not in "".join(map(source, code)), "experiments export nothing"


def test_nothing_names_a_machine_or_a_registry():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    pattern = re.compile(r"(/home/[a-z]|/root/|/Users/[a-z]|/tmp/[a-z]|/opt/[a-z]|pypi\.org|--index-url|find-links|registry\.npmjs|debian\.org)")
    binary = {".png", ".npz", ".gz", ".lock"}
    found = []
    for name in files:
        path = ROOT / name
        if path.suffix in binary or not path.is_file() or name == "tests/test_house.py": continue
        found += [f"{name}: {m.group(0)}" for m in pattern.finditer(path.read_text(errors="replace"))]
    assert found == []


def test_every_locked_version_runs_on_the_oldest_python():
    "A lock made on a late 3.11 must install on an early one: what each locked package says of the interpreter allows 3.11.0."
    from importlib.metadata import distributions
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name
    locked = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    asks = {canonicalize_name(d.metadata["Name"]): d.metadata.get("Requires-Python") or "" for d in distributions()}
    assert len(locked & asks.keys()) > 50
    assert not {name: asks[name] for name in locked & asks.keys() if not SpecifierSet(asks[name]).contains("3.11.0")}
