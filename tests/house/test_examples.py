"""Each example of a public docstring is run and prints what it says."""

import doctest
import re
from importlib import import_module

import numpy as np
import pytest
import torch

from impsamp.integrations.frameworks import MissingFramework
from tests.house.repository import GENERATED, name_of

WITH_EXAMPLES = [m for m in GENERATED if re.search(r"^ *>>> ", m.read_text(), re.MULTILINE)]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(module):
    "Doctests of what a module defines itself, in its own names, with np and torch beside them."
    words = {**vars(module), "np": np, "torch": torch}
    found = doctest.DocTestFinder(exclude_empty=True).find(module, globs=words)
    return [test for test in found if test.examples]


def loaded(module):
    "The module; skipped where its framework is not here (`make integrations` has all)."
    try:
        return import_module(module)
    except MissingFramework as e:
        pytest.skip(str(e))


def complaint_of(test):
    "What an example printed where it did not print what it says."
    printed = []
    doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(test, out=printed.append)
    return "".join(printed)


@pytest.mark.parametrize("module", map(name_of, WITH_EXAMPLES))
def test_an_example_prints_what_it_says(module):
    tests = examples(loaded(module))
    assert tests, f"the examples of {module} are out of doctest's sight"
    complaints = list(filter(None, map(complaint_of, tests)))
    assert not complaints, "".join(complaints)


def test_a_wrong_example_is_named():
    def wrong():
        """
        >>> 1 + 1
        3
        """

    (test,) = doctest.DocTestFinder().find(wrong, "wrong", globs={})
    assert "Expected:" in complaint_of(test)
