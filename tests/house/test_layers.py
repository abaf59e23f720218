"""Who may import whom."""

import ast

import pytest

from tests.house.repository import GENERATED, MODULES, PACKAGE, file_of, imports_of, place, short

REPRODUCE = PACKAGE / "reproduce"


@pytest.mark.parametrize("module", GENERATED, ids=short)
def test_imports_point_down(module):
    above = [short(f) for f in imports_of(module) if f in GENERATED and place(f) >= place(module)]
    assert above == [], f"{short(module)} imports what stands above it"


@pytest.mark.parametrize("module", GENERATED, ids=short)
def test_nothing_is_imported_by_star(module):
    nodes = ast.walk(ast.parse(module.read_text()))
    stars = [n.lineno for n in nodes if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
    assert stars == []


def test_no_library_module_imports_what_only_experiments_need():
    library = [m for m in MODULES if REPRODUCE not in m.parents and m.name != "__main__.py"]
    assert len(library) > 50
    wrong = [(short(m), short(f)) for m in library for f in imports_of(m) if REPRODUCE in f.parents]
    assert wrong == []
    spelled = [short(m) for m in library if "impsamp.reproduce" in code_of(m)]
    assert spelled == [], "not by a string either"


def code_of(module):
    "A module without its docstrings and comments."
    tree = ast.parse(module.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant):
                body[0] = ast.Pass()
    return ast.unparse(tree)


def test_an_import_of_a_package_is_an_import_of_its_door():
    door = PACKAGE / "samplers" / "__init__.py"
    assert file_of("impsamp.samplers") == door
    assert PACKAGE / "samplers" / "draws.py" in set(imports_of(door))
