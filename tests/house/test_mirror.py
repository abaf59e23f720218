"""The test of a thing is found by its path."""

import pytest

from tests.house.repository import GENERATED, PACKAGE, ROOT, short

TESTS = ROOT / "tests"


def mirror_of(module):
    "impsamp/a/b.py -> tests/a/test_b.py; impsamp/a/__init__.py -> tests/a/test_init.py."
    name = "init" if module.stem == "__init__" else module.stem
    return TESTS / module.relative_to(PACKAGE).with_name(f"test_{name}.py")


@pytest.mark.parametrize("module", GENERATED, ids=short)
def test_a_module_has_its_tests_at_the_same_path(module):
    assert "def test_" in mirror_of(module).read_text()
