"""What no formatter mends: how long lines, functions and modules are, and what a line may hold."""

import ast

import pytest

from tests.house.measure import WIDTH, faults_of, picture, table, violations
from tests.house.repository import (
    GENERATED,
    MODULES,
    NOTEBOOKS,
    PACKAGE,
    PYTHON_FILES,
    cells,
    short,
    source,
)


@pytest.mark.parametrize("module", GENERATED, ids=short)
def test_a_module_reads_a_thought_a_line(module):
    assert [f"{line}: {what}" for line, what in violations(module)] == []


@pytest.mark.parametrize("path", PYTHON_FILES, ids=short)
def test_no_line_is_wider_than_a_page(path):
    wide = [i for i, line in enumerate(path.read_text().splitlines(), 1) if len(line) > WIDTH]
    assert wide == []


@pytest.mark.parametrize("path", [p for p in PYTHON_FILES if p not in MODULES], ids=short)
def test_tests_and_benchmarks_read_a_thought_a_line_too(path):
    assert faults_in(path.read_text()) == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=short)
def test_cells_read_a_thought_a_line_too(notebook):
    code = [source(c) for c in cells(notebook) if c["cell_type"] == "code"]
    plain = [text for text in code if not text.lstrip().startswith(("%", "!"))]
    assert [fault for text in plain for fault in faults_in(text, shows_last=True)] == []


def faults_in(text, shows_last=False):
    "What no formatter mends in a text; the last expression of a cell is what it shows."
    tree = ast.parse(text)
    last = tree.body[-1] if shows_last and tree.body else None
    return [f"{n.lineno}: {what}" for n in ast.walk(tree) if n is not last for what in faults_of(n)]


@pytest.mark.parametrize("package", [p for p in PACKAGE.iterdir() if (p / "__init__.py").exists()])
def test_lines_hold_few_tokens(package):
    modules = [m for m in GENERATED if package in m.parents]
    assert table(modules)["tokens a line, p90"] <= 18


def test_the_picture_stays_small():
    drawn = picture(MODULES)
    assert drawn["rooms"] <= 21 and drawn["floors"] <= 9 and drawn["arrows"] <= 105


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("check(a), check(b)", "expression statement"),
        ("a, b, c = x, y, z", "tuple assignment of three"),
        ("v = 1 if a else 2 if b else 3", "nested ternary"),
        ("v = [[x for x in y] for y in z]", "comprehension within a comprehension"),
        ("v = {k: [x for x in y] for k, y in z}", "comprehension within a comprehension"),
        ("def f():\n" + "    g()\n" * 51, "f has 51 body lines"),
    ],
)
def test_a_fault_is_found(code, fault):
    found = [what for node in ast.walk(ast.parse(code)) for what in faults_of(node)]
    assert len(found) == 1 and fault in found[0]


@pytest.mark.parametrize(
    "code",
    [
        "check(a)\ncheck(b)",
        "a, b = b, a",
        "a, b, c = f()",
        "v = 1 if a else 2",
        "v = [x for y in z for x in y]",
        "def f():\n" + "    g()\n" * 50,
    ],
)
def test_plain_lines_are_no_fault(code):
    assert [what for node in ast.walk(ast.parse(code)) for what in faults_of(node)] == []


def test_unannotated_and_bare_signatures_are_found(tmp_path):
    module = tmp_path / "m.py"
    module.write_text("def f(x): ...\ndef g(x: Any) -> int: ...\ndef _h(x): ...\n")
    found = [what for _, what in violations(module)]
    assert found == ["f is not annotated", "g takes or gives a bare Any"]
