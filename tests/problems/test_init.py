"""The package's names are the objects of its modules."""

import impsamp
from impsamp import problems
from impsamp.problems import finite_sum, linear, networks


def test_every_name_is_the_object_of_its_module():
    for module in (finite_sum, linear, networks):
        for name in set(module.__all__) & set(problems.__all__):
            assert getattr(problems, name) is getattr(module, name)
    assert {"FiniteSum", "LogisticRegression", "PaperCNN"} <= set(problems.__all__)
    assert len(problems.__all__) == len(set(problems.__all__)) == 7


def test_the_top_level_shows_the_same_objects():
    assert impsamp.LogisticRegression is problems.LogisticRegression
    assert impsamp.FiniteSum is problems.FiniteSum
