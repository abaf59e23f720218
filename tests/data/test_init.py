"""The package's own names."""

from impsamp import data
from impsamp.data import libsvm, mnist


def test_the_package_offers_the_loaders():
    assert set(data.__all__) == {"Split", "load_libsvm", "load_mnist", "load_mnist01"}
    assert data.load_libsvm is libsvm.load_libsvm
    assert data.load_mnist is mnist.load_mnist
    assert data.load_mnist01 is mnist.load_mnist01
    assert data.Split is mnist.Split
