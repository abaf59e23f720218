"""What an answer depends on: the code of the package, of a notebook, libraries and data."""

import functools
import shutil
from importlib import metadata
from pathlib import Path

import nbformat
import numpy as np
import pytest

from impsamp.errors import InvalidArgument
from impsamp.reproduce import fingerprint
from impsamp.reproduce.lahire import paper_run

ROOT = Path(__file__).parents[2]


# --- the code version


@pytest.fixture
def copy(tmp_path):
    "A copy of the package whose modules may be changed."
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "impsamp", tmp_path / "impsamp", ignore=ignored)
    return tmp_path


def append(copy, module):
    "Change a module of the copy without changing what it does."
    with open(copy / "impsamp" / module, "a") as file:
        file.write("\n# changed\n")


def test_the_version_of_a_copy_is_that_of_the_package(copy):
    assert fingerprint._version("impsamp.training", copy) == fingerprint.code_version(
        "impsamp.training"
    )


@pytest.mark.parametrize(
    "module",
    [
        "reproduce/lahire.py",  # itself
        "training.py",  # imported by name
        "samplers/__init__.py",  # a package that is imported from
        "samplers/sumtree.py",  # reached through that package's __init__ alone
        "checks.py",  # at the bottom of it all
    ],
)
def test_a_change_below_a_module_changes_its_version(copy, module):
    before = fingerprint._version("impsamp.reproduce.lahire", copy)
    append(copy, module)
    assert fingerprint._version("impsamp.reproduce.lahire", copy) != before


@pytest.mark.parametrize("module", ["reproduce/figures.py", "reproduce/horvath.py", "__init__.py"])
def test_a_change_elsewhere_does_not(copy, module):
    before = fingerprint._version("impsamp.reproduce.lahire", copy)
    append(copy, module)
    assert fingerprint._version("impsamp.reproduce.lahire", copy) == before


def small_package(folder, **modules):
    "A package `impsamp` of modules `dotted__name`=source."
    for name, source in modules.items():
        path = folder / "impsamp" / name.replace("__", "/")
        path = path / "__init__.py" if name in ("parts", "deep") else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


SMALL = {
    "top": "from impsamp.parts import wheel\n",
    "parts": "from .wheels import wheel\n",
    "parts__wheels": "import numpy\nfrom ..deep.metal import iron\nwheel = iron\n",
    "deep": "",
    "deep__metal": "def smelt():\n    from impsamp.deep import ore\n\niron = 1\n",
    "deep__ore": "kind = 'red'\n",
    "aside": "from impsamp import top\n",
}


@pytest.mark.parametrize(
    "changed, matters",
    [
        ("top", True),
        ("parts", True),
        ("parts__wheels", True),  # only the package's __init__ names it
        ("deep__metal", True),  # a relative import, from where it stands
        ("deep__ore", True),  # a module as a name, inside a function
        ("aside", False),  # imports top, which does not import it
    ],
)
def test_what_a_small_package_reads(tmp_path, changed, matters):
    small_package(tmp_path, **SMALL)
    before = fingerprint._version("impsamp.top", tmp_path)
    small_package(tmp_path, **{changed: SMALL[changed] + "x = 1\n"})
    assert (fingerprint._version("impsamp.top", tmp_path) != before) == matters


def test_a_module_that_does_not_exist_has_no_version():
    with pytest.raises(InvalidArgument, match=r"no module 'impsamp\.nothing'"):
        fingerprint.code_version("impsamp.nothing")
    with pytest.raises(InvalidArgument, match="no module 'numpy'"):
        fingerprint.code_version("numpy")


# --- a notebook as a whole


def as_notebook(path, *cells, prose="words"):
    nb = nbformat.v4.new_notebook()
    nb.cells = [nbformat.v4.new_markdown_cell(prose), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(nb, path / "x.ipynb")
    return path / "x.ipynb"


def test_a_notebook_is_its_code_and_what_it_imports(tmp_path, monkeypatch):
    cell = "from impsamp.theory import second_moment\nx = 1"
    before = fingerprint.notebook_version(as_notebook(tmp_path, cell))
    assert fingerprint.notebook_version(as_notebook(tmp_path, cell, prose="others")) == before
    assert fingerprint.notebook_version(as_notebook(tmp_path, cell, "y = 2")) != before
    again = as_notebook(tmp_path, cell)
    copied = tmp_path / "package"
    shutil.copytree(ROOT / "impsamp", copied / "impsamp")
    monkeypatch.setattr(fingerprint, "_package_root", lambda: copied)
    assert fingerprint.notebook_version(again) == before
    append(copied, "theory/convergence.py")
    assert fingerprint.notebook_version(again) != before


def test_a_cell_that_is_no_python_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match=r"x\.ipynb holds code that is no Python"):
        fingerprint.notebook_version(as_notebook(tmp_path, "for"))


# --- functions of a notebook


NOTEBOOK = """
import numpy as np
from functools import lru_cache
from impsamp.theory import second_moment

steps = 10
rates = {"a": [0.1, 0.2]}


class Wheel:
    turns = 3
    def turn(self):
        return helper(self.turns)


def helper(x):
    return x + 1


@lru_cache
def cached(x):
    return Wheel().turn() + x


def run(seed, factor=2):
    def inner():
        return [steps * cached(seed) for _ in rates["a"]]
    return {"x": np.array(inner()) * factor, "H": second_moment([1.0], [1.0])}


def elsewhere():
    return unused


unused = 1
"""


def version_of(tmp_path, source):
    "The version of `run` in a notebook with this source."
    path = tmp_path / f"cell{abs(hash(source))}.py"
    path.write_text(source)
    scope = {"__name__": "__main__"}
    exec(compile(source, str(path), "exec"), scope)
    return fingerprint.function_version(scope["run"])


@pytest.mark.parametrize(
    "old, new, matters",
    [
        ("x + 1", "x + 2", True),  # a helper of a method of a class behind a cache
        ("turns = 3", "turns = 4", True),
        ("steps = 10", "steps = 11", True),  # a parameter, named by an inner function
        ("0.2", "0.3", True),  # within a table
        ("factor=2", "factor=3", True),
        ("* factor", "+ factor", True),
        ("unused = 1", "unused = 2", False),
        ("return unused", "return None", False),
    ],
)
def test_what_a_notebooks_function_depends_on(tmp_path, old, new, matters):
    assert old in NOTEBOOK
    before = version_of(tmp_path, NOTEBOOK)
    assert version_of(tmp_path, NOTEBOOK) == before
    assert (version_of(tmp_path, NOTEBOOK.replace(old, new)) != before) == matters


def test_it_depends_on_the_packages_code_that_it_names(tmp_path, monkeypatch):
    before = version_of(tmp_path, NOTEBOOK)
    real = fingerprint.code_version
    monkeypatch.setattr(fingerprint, "code_version", lambda m: "other" + real(m))
    assert version_of(tmp_path, NOTEBOOK) != before


@pytest.mark.parametrize("value", ["np.zeros(3)", "object()", "np.random.default_rng(0)"])
def test_a_value_that_cannot_be_described_is_refused(tmp_path, value):
    source = NOTEBOOK.replace("steps = 10", f"steps = {value}")
    with pytest.raises(InvalidArgument, match="'steps' is neither a plain value nor code"):
        version_of(tmp_path, source)


def test_functions_that_call_each_other_end(tmp_path):
    source = "def run(x):\n    return back(x)\ndef back(x):\n    return run(x)\n"
    assert len(version_of(tmp_path, source)) == 16


def test_a_partial_is_its_parts(tmp_path):
    def named(value):
        scope = {"__name__": "__main__", "partial": functools.partial(max, value)}
        path = tmp_path / "cell.py"
        path.write_text("def run():\n    return partial()\n")
        exec(compile(path.read_text(), str(path), "exec"), scope)
        return fingerprint.function_version(scope["run"])

    assert named(1) == named(1)
    assert named(1) != named(2)


def test_a_function_of_the_package_has_its_modules_version():
    version = fingerprint.function_version(paper_run)
    assert version == fingerprint.code_version("impsamp.reproduce.lahire")


# --- libraries and data


def test_libraries_and_data_are_part_of_what_makes_a_run(monkeypatch):
    made = fingerprint.made_by(paper_run)
    assert made["numpy"] == np.__version__
    assert made["torch"] == metadata.version("torch").split("+")[0]
    assert set(made) == {"code", "torch", "numpy", "scipy", "numba", "scikit-learn", "data"}
    fingerprint.environment.cache_clear()
    monkeypatch.setattr(fingerprint, "version", lambda name: "9.9")
    assert fingerprint.made_by(paper_run)["torch"] == "9.9"
    fingerprint.environment.cache_clear()
