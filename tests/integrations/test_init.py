"""The package imports no framework before one of its classes is asked for."""

import subprocess
import sys

import pytest

import impsamp.integrations as integrations
from impsamp.integrations.frameworks import OLDEST, MissingFramework


def test_importing_the_package_imports_no_framework():
    code = (
        "import sys, impsamp.integrations, impsamp.integrations.tensorboard\n"
        f"print([name for name in {sorted(OLDEST)} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(set(integrations._HOME) - {"TensorBoardLog"}))
def test_a_class_without_its_framework_is_a_sentence(monkeypatch, name):
    module = f"impsamp.integrations.{integrations._HOME[name]}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr("impsamp.integrations.frameworks.find_spec", lambda name: None)
    with pytest.raises(MissingFramework, match="pip install"):
        getattr(integrations, name)


def test_other_names_are_refused_and_dir_lists_the_classes():
    with pytest.raises(AttributeError, match="has no attribute 'Keras'"):
        _ = integrations.Keras
    assert set(integrations._HOME) <= set(dir(integrations))
    assert integrations.TensorBoardLog.__name__ == "TensorBoardLog"
