"""The repository as its tests see it: modules, notebooks, and the order in which they stand."""

import ast
import json
import re
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "impsamp"
HAND_WRITTEN = {
    PACKAGE / "__init__.py",
    PACKAGE / "__main__.py",
    PACKAGE / "reproduce" / "__main__.py",
}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "_modidx.py")
GENERATED = [p for p in MODULES if p not in HAND_WRITTEN]


def is_hidden(path):
    "In a folder of a tool: checkpoints, runs."
    return any(part.startswith((".", "_")) for part in path.relative_to(ROOT).parts)


NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not is_hidden(p))
PYTHON_FILES = [
    *MODULES,
    *[p for top in ("tests", "benchmarks", "data", "examples") for p in (ROOT / top).rglob("*.py")],
]


def name_of(module):
    "The dotted name of a file of the package."
    parts = module.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def file_of(name):
    "The file of a dotted name, or None."
    path = ROOT.joinpath(*name.split("."))
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((p for p in found if p in MODULES), None)


def notebook_of(module):
    "The notebook that a generated module comes from."
    header = re.search(r"File to edit: (?:\.\./)+nbs/(\S+\.ipynb)", module.read_text())
    return ROOT / "nbs" / header.group(1)


def place(module):
    "Where a module stands: the path of its notebook, an index after all else in its folder."
    path = notebook_of(module).relative_to(ROOT / "nbs").with_suffix("")
    return tuple("~" if part == "index" else part for part in path.parts)


def imports_of(module):
    "Files of this package that `module` imports anywhere, by ast."
    name = name_of(module)
    package = name if module.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{alias.name}" for alias in node.names]
            wanted = [name if file_of(name) else base for name in names]
        else:
            continue
        yield from {f for w in wanted if (f := file_of(w)) and f != module}


def cells(notebook):
    return json.loads(notebook.read_text())["cells"]


def source(cell):
    return "".join(cell["source"])


def short(path):
    "A test id."
    return str(path.relative_to(ROOT))
