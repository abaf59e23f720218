"""The package's own names: what the five modules offer, without torch."""

import doctest
import inspect
import re
import subprocess
import sys

import numpy as np
import pytest

from impsamp import theory
from impsamp.samplers import NiceSampling
from impsamp.theory import adaptive, convergence, divergences, minibatch, remembered

MODULES = [adaptive, convergence, divergences, minibatch, remembered]


def test_the_package_offers_what_its_modules_do():
    offered = {name for module in MODULES for name in module.__all__}
    assert set(theory.__all__) == offered - {"check_step"}  # for modules, not for users


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_a_name_means_the_same_in_the_package(module):
    for name in set(module.__all__) & set(theory.__all__):
        assert getattr(theory, name) is getattr(module, name)


FUNCTIONS = [name for name in theory.__all__ if inspect.isfunction(getattr(theory, name))]
EXAMPLE = re.compile(r"Example:\s+`([^`]+)`\s+is\s+([^:]+)[.:]", re.DOTALL)


def ran_as_printed(text, name):
    "The number of the docstring's lines that were tried; each prints what it says."
    test = doctest.DocTestParser().get_doctest(text, dict(vars(theory)), name, None, 0)
    done = doctest.DocTestRunner().run(test)
    assert done.failed == 0
    return done.attempted


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_a_docstring_is_right(name):
    text = inspect.getdoc(getattr(theory, name))
    if ">>>" in text:
        assert ran_as_printed(text, name) > 0
        return
    code, value = EXAMPLE.search(text).groups()
    words = {**vars(theory), "np": np, "ln": np.log, "NiceSampling": NiceSampling}
    assert np.allclose(eval(code.replace("\n", " "), words), eval(value, words))


def test_theory_of_arrays_costs_no_torch():
    code = (
        "import sys\n"
        "from impsamp.theory import minibatch_probabilities, second_moment\n"
        "assert second_moment([0.5, 0.5], [1, 3]) == 5\n"
        "assert minibatch_probabilities([1, 3], 1).tolist() == [0.25, 0.75]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
