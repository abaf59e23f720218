"""Who may import whom."""

import ast

import pytest

from tests.house.repository import GENERATED, MODULES, PACKAGE, file_of, imports_of, place, short

REPRODUCE = PACKAGE / "reproduce"


@pytest.mark.parametrize("module", GENERATED, ids=short)
def test_imports_point_down(module):
    imported = [f for f in imports_of(module) if f in GENERATED]
    above = [short(f) for f in imported if place(f) >= place(module)]
    assert above == [], f"{short(module)} imports what stands above it"


@pytest.mark.parametrize("module", GENERATED, ids=short)
def test_nothing_is_imported_by_star(module):
    nodes = ast.walk(ast.parse(module.read_text()))
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom)]
    stars = [n.lineno for n in imports if n.names[0].name == "*"]
    assert stars == []


def test_no_library_module_imports_what_only_experiments_need():
    library = [m for m in MODULES if REPRODUCE not in m.parents and m.name != "__main__.py"]
    assert len(library) > 50
    pairs = [(m, f) for m in library for f in imports_of(m)]
    wrong = [(short(m), short(f)) for m, f in pairs if REPRODUCE in f.parents]
    assert wrong == []
    spelled = [short(m) for m in library if "impsamp.reproduce" in code_of(m)]
    assert spelled == [], "not by a string either"


def code_of(module):
    "A module without its docstrings and comments."
    tree = ast.parse(module.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and is_docstring(body[0]):
            body[0] = ast.Pass()
    return ast.unparse(tree)


def is_docstring(statement):
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def test_an_import_of_a_package_is_an_import_of_its_init():
    init = PACKAGE / "samplers" / "__init__.py"
    assert file_of("impsamp.samplers") == init
    assert PACKAGE / "samplers" / "draws.py" in set(imports_of(init))
