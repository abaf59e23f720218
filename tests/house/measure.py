"""How the package reads, in numbers: `python tests/house/measure.py [--violations] [FILES]`.

Counted over the generated modules. Body lines: from the first to the last statement of a function,
docstring left out. Tokens of a line: what Python's tokenizer gives, without comments, line ends
and indentation; a docstring counts as one token on its first line. Code lines: lines that hold a
token other than a docstring or comment. Picture: a package or a top-level module is one room, an
arrow goes from a room to each room that it imports, floors are the longest chain of arrows.
"""

import argparse
import ast
import io
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.house.repository import GENERATED, MODULES, imports_of, name_of, short

WIDTH = 100
BODY = 50
MODULE = 350
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def docstring_of(node):
    "The docstring's statement, or None."
    if not isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Module)) or not node.body:
        return None
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first if is_text and isinstance(first.value.value, str) else None


def body_lines(function):
    "Lines of a function's body without its docstring."
    body = [s for s in function.body if s is not docstring_of(function)]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def docstring_lines(tree):
    "Line numbers that belong to docstrings."
    found = filter(None, map(docstring_of, ast.walk(tree)))
    return {line for s in found for line in range(s.lineno, s.end_lineno + 1)}


def tokens_by_line(text):
    "Line number -> number of tokens that start there."
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return Counter(t.start[0] for t in tokens if t.type not in LAYOUT)


def code_lines(text, tree):
    "Lines that hold code: no docstring, no comment, not blank."
    lines = {
        line
        for t in tokenize.generate_tokens(io.StringIO(text).readline)
        if t.type not in LAYOUT
        for line in range(t.start[0], t.end[0] + 1)
    }
    return lines - docstring_lines(tree)


def is_tuple_assignment(node):
    "a, b = x, y: as many values written out as there are targets."
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    )


def parameters(function):
    "The arguments that a caller sees."
    a = function.args
    starred = [x for x in (a.vararg, a.kwarg) if x]
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *starred]
    return [x for x in every if x.arg not in ("self", "cls")]


def is_annotated(function):
    complete = function.returns is not None or function.name == "__init__"
    return complete and all(x.annotation is not None for x in parameters(function))


def annotations(function):
    "What the arguments and the result are said to be, as written."
    written = [x.annotation for x in parameters(function)] + [function.returns]
    return {ast.unparse(a) for a in written if a is not None}


def is_shown(name):
    return not name.startswith("_") or name in ("__init__", "__call__")


def public_functions(tree):
    "(name, node) of the functions and methods that a user can see."
    for node in tree.body:
        if isinstance(node, FUNCTIONS) and is_shown(node.name):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and is_shown(node.name):
            methods = [m for m in node.body if isinstance(m, FUNCTIONS) and is_shown(m.name)]
            yield from ((f"{node.name}.{m.name}", m) for m in methods)


COMPREHENSIONS = (ast.ListComp, ast.DictComp, ast.SetComp)


def inside(node, kinds):
    "Nodes of `kinds` strictly within `node`."
    within = [n for n in ast.walk(node) if n is not node]
    return [n for n in within if isinstance(n, kinds)]


def faults_of(node):
    "What no formatter mends in one node."
    if isinstance(node, ast.Expr):
        value = node.value
        plain = (ast.Call, ast.Constant, ast.Yield, ast.YieldFrom, ast.Await)
        if not isinstance(value, plain):
            yield "an expression statement that is no call"
    if is_tuple_assignment(node) and len(node.value.elts) > 2:
        yield "a tuple assignment of three values or more"
    if isinstance(node, ast.IfExp) and inside(node, ast.IfExp):
        yield "a nested ternary"
    if isinstance(node, COMPREHENSIONS) and inside(node, COMPREHENSIONS):
        yield "a comprehension within a comprehension"
    if isinstance(node, FUNCTIONS) and body_lines(node) > BODY:
        yield f"{node.name} has {body_lines(node)} body lines, the limit is {BODY}"


def violations(path):
    "(line, what) of everything in one module that the style forbids."
    text = path.read_text()
    tree = ast.parse(text)
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > WIDTH:
            yield number, f"{len(line)} columns"
    for node in ast.walk(tree):
        yield from ((node.lineno, fault) for fault in faults_of(node))
    for name, function in public_functions(tree):
        if not is_annotated(function):
            yield function.lineno, f"{name} is not annotated"
        if "Any" in annotations(function):
            yield function.lineno, f"{name} takes or gives a bare Any"
    size = len(code_lines(text, tree))
    if size > MODULE:
        yield 1, f"{size} code lines, the limit is {MODULE}"


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def room(module):
    "The package or top-level module that a file belongs to."
    return [*name_of(module).split("."), "impsamp"][1]


ENTRANCES = {"impsamp", "__main__"}


def picture(modules):
    "How many rooms, floors and arrows the imports between packages make."
    rooms = {room(m) for m in modules} - ENTRANCES
    imports = {(room(m), room(f)) for m in modules for f in imports_of(m)}
    arrows = {(a, b) for a, b in imports if a != b and {a, b} <= rooms}
    floor = dict.fromkeys(rooms, 1)
    for _ in rooms:
        for above, below in arrows:
            floor[above] = max(floor[above], floor[below] + 1)
    return {"rooms": len(rooms), "floors": max(floor.values()), "arrows": len(arrows)}


@dataclass
class Counts:
    "What is counted over all modules, one entry per function, line or statement."

    bodies: list = field(default_factory=list)  # body lines of a function
    columns: list = field(default_factory=list)  # of a line that is not blank
    tokens: list = field(default_factory=list)  # of a line
    annotated: list = field(default_factory=list)  # whether a function is
    shown: list = field(default_factory=list)  # the same, public ones
    sizes: list = field(default_factory=list)  # code lines of a module
    lines: int = 0
    pairs: int = 0  # tuple = tuple
    statements: int = 0

    def add(self, text):
        "Count one module."
        tree = ast.parse(text)
        lines = text.splitlines()
        nodes = list(ast.walk(tree))
        functions = [n for n in nodes if isinstance(n, FUNCTIONS)]
        self.lines += len(lines)
        self.columns += [len(line) for line in lines if line.strip()]
        self.tokens += tokens_by_line(text).values()
        self.bodies += map(body_lines, functions)
        self.annotated += map(is_annotated, functions)
        self.shown += [is_annotated(f) for _, f in public_functions(tree)]
        self.sizes.append(len(code_lines(text, tree)))
        self.pairs += sum(map(is_tuple_assignment, nodes))
        self.statements += sum(isinstance(n, ast.stmt) for n in nodes)


def percent(truths):
    truths = list(truths)
    return 100 * sum(truths) / len(truths)


def table(modules):
    "name -> number."
    counts = Counts()
    for path in modules:
        counts.add(path.read_text())
    folders = Counter(m.parent for m in modules)
    return {
        "function body lines, median": quantile(counts.bodies, 0.5),
        "function body lines, p90": quantile(counts.bodies, 0.9),
        "function body lines, max": max(counts.bodies),
        "lines over 100 columns, %": percent(c > 100 for c in counts.columns),
        "lines over 120 columns, %": percent(c > 120 for c in counts.columns),
        "tokens a line, p90": quantile(counts.tokens, 0.9),
        "tuple = tuple per 1000 statements": 1000 * counts.pairs / counts.statements,
        "annotated functions, %": percent(counts.annotated),
        "annotated public signatures, %": percent(counts.shown),
        "largest folder, modules": max(folders.values()),
        "largest module, code lines": max(counts.sizes),
        **picture(modules),
        "modules": len(modules),
        "lines": counts.lines,
    }


def list_violations(modules):
    for m in modules:
        for line, what in sorted(violations(m)):
            print(f"{short(m)}:{line}: {what}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--violations", action="store_true", help="list what the style forbids")
    parser.add_argument("files", nargs="*", type=Path, help="files or folders (default: all)")
    args = parser.parse_args()
    wanted = [p.resolve() for p in args.files]
    modules = [m for m in GENERATED if not wanted or {m, *m.parents} & set(wanted)]
    if args.violations:
        list_violations(modules)
        return
    for name, value in table(modules if wanted else MODULES).items():
        print(f"{name:36} {value:.4g}")


if __name__ == "__main__":
    main()
