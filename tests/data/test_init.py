"""The package's own names."""

from impsamp import data
from impsamp.data import flights, libsvm, mnist


def test_the_package_offers_the_loaders():
    loaders = {"load_flights", "load_libsvm", "load_mnist", "load_mnist01"}
    assert set(data.__all__) == {"Flights", "Split", *loaders}
    assert data.load_flights is flights.load_flights
    assert data.Flights is flights.Flights
    assert data.load_libsvm is libsvm.load_libsvm
    assert data.load_mnist is mnist.load_mnist
    assert data.load_mnist01 is mnist.load_mnist01
    assert data.Split is mnist.Split
