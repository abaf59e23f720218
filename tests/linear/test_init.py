"The package: what it offers, and what it does not load."

import subprocess
import sys

import pytest

import impsamp.linear as linear


def test_every_name_that_is_offered_is_there():
    assert {"minimize", "restart", "make_plan", "block_drawer"} <= set(linear.__all__)
    for name in linear.__all__:
        assert getattr(linear, name).__module__.startswith("impsamp.linear.")


def test_scikit_learn_is_loaded_with_the_estimators_and_not_before():
    code = (
        "import sys, impsamp.linear as linear\n"
        "assert 'sklearn' not in sys.modules\n"
        "from impsamp.linear import VRClassifier\n"
        "assert 'sklearn' in sys.modules\n"
        "assert linear.VRRegressor is sys.modules['impsamp.linear.estimators'].VRRegressor"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'VRCluster'"):
        linear.__getattr__("VRCluster")
