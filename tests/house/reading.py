"""How the library notebooks read, in numbers: `python tests/house/reading.py [--names] [FILES]`.

Counted over the notebooks that export a module, from their cells alone. Lines are lines that hold
code: no docstring, comment, directive or blank. Size of a function or class: such lines from `def`
or `class` on, decorators left out. Use: lines of code cells that are not exported, per exported
line. Words: of the prose, per line of code. Missing output: a cell that ends in a value that is no
call, prints, or opens a figure, and is committed without an output. Example: a docstring of a
public function or class that holds a `>>>`, or theory's "Example: `code` is value".
"""

import argparse
import ast
import re
import sys
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.house.measure import FUNCTIONS, code_lines, quantile
from tests.house.repository import NOTEBOOKS, cells, source

NBS = ROOT / "nbs"
LONGEST_FUNCTION = 40
LONGEST_CLASS = 80
OUTPUT_CALLS = {"print", "display"}
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)


def directives(text):
    "The words after `#|` of a cell, one string a line."
    return re.findall(r"^#\|\s*(.+?)\s*$", text, flags=re.MULTILINE)


def is_exported(text):
    return any(d.split()[0] in ("export", "exporti", "exports") for d in directives(text))


def is_skipped(text):
    "Not run where the notebooks are executed, or no Python."
    unrun = any(d.startswith(("eval: false", "slow", "integrations")) for d in directives(text))
    return unrun or text.lstrip().startswith(("%", "!"))


def is_patch(node):
    "A method set on a class from afar: `Class.name = f` or fastcore's `@patch`."
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        is_class = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)
        return is_class and target.value.id[:1].isupper()
    decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
    return any(d.startswith("patch") for d in decorators)


def called(tree):
    "Last names of the functions called by a cell outside its own definitions."
    kept = [n for n in tree.body if not isinstance(n, DEFINITIONS)]
    calls = [n.func for k in kept for n in ast.walk(k) if isinstance(n, ast.Call)]
    return {ast.unparse(f).rpartition(".")[2] for f in calls}


def shows(tree):
    "Whether a cell must have left an output: a value, a print or a figure."
    last = tree.body[-1] if tree.body else None
    is_value = isinstance(last, ast.Expr) and not isinstance(last.value, (ast.Call, ast.Constant))
    return is_value or bool(called(tree) & {*OUTPUT_CALLS, "subplots", "figure"})


def has_example(docstring):
    return ">>>" in docstring or bool(re.search(r"Example:\s+`", docstring))


def is_overload(node):
    return any(ast.unparse(d) == "overload" for d in node.decorator_list)


def is_picture(output):
    return any(kind.startswith("image/") for kind in output.get("data", {}))


@dataclass
class Reading:
    "What is counted in one notebook, or in several together."

    exported: list = field(default_factory=list)  # lines of an exported cell
    used: int = 0
    words: int = 0
    pictures: int = 0
    long: list = field(default_factory=list)  # functions and classes above their size
    crowded: list = field(default_factory=list)  # exported cells of several public functions
    patches: list = field(default_factory=list)
    missing: list = field(default_factory=list)  # cells without the output they speak of
    bare: list = field(default_factory=list)  # public names whose docstring has no example
    public: int = 0

    def __add__(self, other):
        return Reading(**{k: getattr(self, k) + getattr(other, k) for k in vars(self)})

    def add_definition(self, node, code):
        limit = LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION
        lines = len(code.intersection(range(node.lineno, node.end_lineno + 1)))
        if lines > limit:
            self.long.append(f"{node.name} has {lines} lines, the limit is {limit}")
        if not node.name.startswith("_") and not is_overload(node):
            self.public += 1
            if not has_example(ast.get_docstring(node) or ""):
                self.bare.append(node.name)

    def add_exported(self, text, tree):
        code = code_lines(text, tree)
        self.exported.append(len(code))
        defined = [n for n in tree.body if isinstance(n, DEFINITIONS)]
        public = sorted({n.name for n in defined if not n.name.startswith("_")})
        if len(public) > 1:
            self.crowded.append(", ".join(public))
        self.patches += [ast.unparse(n).splitlines()[0] for n in tree.body if is_patch(n)]
        for node in defined:
            self.add_definition(node, code)

    def add_used(self, cell, text, tree):
        self.used += len(code_lines(text, tree))
        self.pictures += sum(map(is_picture, cell["outputs"]))
        if shows(tree) and not cell["outputs"]:
            first = next(line for line in text.splitlines() if not line.startswith("#|"))
            self.missing.append(f"the cell that begins {first!r} is committed without its output")

    def add(self, cell):
        text = source(cell)
        if cell["cell_type"] == "markdown":
            self.words += len(text.split())
        elif is_exported(text):
            self.add_exported(text, ast.parse(text))
        elif text.strip() and not is_skipped(text):
            self.add_used(cell, text, ast.parse(text))

    def figures(self):
        "name -> number."
        lines = sum(self.exported)
        return {
            "cell median": quantile(self.exported, 0.5) if self.exported else 0,
            "cell max": max(self.exported, default=0),
            "exported lines": lines,
            "use per line": self.used / max(lines, 1),
            "words per line": self.words / max(lines + self.used, 1),
            "pictures": self.pictures,
            "too long": len(self.long),
            "crowded cells": len(self.crowded),
            "patches": len(self.patches),
            "missing outputs": len(self.missing),
            "public names": self.public,
            "no example": len(self.bare),
        }


@cache
def read(notebook):
    "The Reading of one notebook."
    reading = Reading()
    for cell in cells(notebook):
        reading.add(cell)
    return reading


def exports(notebook):
    "Whether a notebook is a module of the library."
    code = [source(c) for c in cells(notebook) if c["cell_type"] == "code"]
    return any(d.startswith("default_exp") for text in code for d in directives(text))


def library():
    "The notebooks that export a module, in the order in which they stand."
    return [n for n in NOTEBOOKS if exports(n)]


def together(notebooks):
    return sum(map(read, notebooks), Reading())


def row(name, figures):
    numbers = [f"{v:.2f}" if isinstance(v, float) else str(v) for v in figures.values()]
    return f"{name:36}" + "".join(f"{n:>10}" for n in numbers)


def heading(figures):
    "Names above their columns, a word a line."
    words = [name.split() for name in figures]
    lines = zip_longest(*words, fillvalue="")
    return "\n".join(f"{'':36}" + "".join(f"{w:>10}" for w in line) for line in lines)


def print_table(notebooks):
    figures = together(notebooks).figures()
    print(heading(figures))
    for n in notebooks:
        print(row(str(n.relative_to(NBS).with_suffix("")), read(n).figures()))
    print(row(f"all {len(notebooks)}", figures))


def print_names(notebooks):
    "What lies behind the counts."
    for n in notebooks:
        found = asdict(read(n))
        for kind in ("long", "crowded", "patches", "missing", "bare"):
            for what in found[kind]:
                print(f"{n.relative_to(NBS)}: {kind}: {what}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", action="store_true", help="list what lies behind the counts")
    parser.add_argument("files", nargs="*", type=Path, help="notebooks or folders (default: all)")
    args = parser.parse_args()
    wanted = {p.resolve() for p in args.files}
    notebooks = [n for n in library() if not wanted or {n, *n.parents} & wanted]
    (print_names if args.names else print_table)(notebooks)


if __name__ == "__main__":
    main()
