"""LIBSVM files: parsing, bad lines by number, a local server, the real sets in IMPSAMP_DATA."""

import bz2
import gzip
import lzma
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from impsamp.data import libsvm, load_libsvm
from impsamp.errors import ChecksumError, DataError, InvalidArgument, UnknownName
from impsamp.problems import SigmoidLeastSquares
from impsamp.theory.minibatch import alpha, minibatch_probabilities

needs_files = pytest.mark.skipif(
    not os.environ.get("IMPSAMP_DATA"), reason="needs the LIBSVM files: set IMPSAMP_DATA"
)
COVTYPE_FORM = (
    "2 1:2596 2:51 3:3 4:258 6:510 7:221 8:232 9:148 10:6279 11:1 43:1\n"
    "1 1:2590 2:56 3:2 4:212 5:-6 6:390 7:220 8:235 9:151 10:6225 11:1 54:1\n"
)


def written_line(row, label):
    pairs = [f"{j}:{float(v)!r}" for j, v in enumerate(row, 1) if v]
    return f"{label:g} {' '.join(pairs)}\n"


features = st.lists(
    st.sampled_from([0.0, 1.0, -2.5, 1e-300, 3.14159e5]),
    min_size=4,
    max_size=4,
)
items = st.tuples(features, st.sampled_from([-1.0, 1.0, 2.0]))


@settings(max_examples=30, deadline=None)
@given(st.lists(items, min_size=1, max_size=8))
def test_what_is_written_is_read(items):
    content = "".join(written_line(row, label) for row, label in items)
    X, labels = libsvm.parse_libsvm(content.encode(), features=4)
    rows, y = zip(*items)
    assert np.array_equal(X.toarray(), np.array(rows))
    assert labels.tolist() == list(y)


@pytest.mark.parametrize(
    "line, what",
    [
        ("1 1:2 1:3", "index 1 after 1"),
        ("1 3:1 2:3", "index 2 after 3"),
        ("1 a:3", "no index:value"),
        ("x 1:3", "no label"),
        ("1 1:inf", "feature 1 is inf"),
        ("1 2:y", "no number"),
        ("nan 1:2", "the label is nan"),
        ("1 0:1", "index 0"),
        ("1 1", "no index"),
        ("1 1_0:1", "'1_0:1' is no index:value"),
        ("1 1:1_0", "'1_0' is no number"),
        ("1_0 1:1", "'1_0' is no label"),
        ("1 1:1e400", "feature 1 is inf"),
        ("1e400 1:1", "the label is 1e400"),
        ("1 1:0x10", "no number"),
        ("1 1:NaN", "feature 1 is nan"),
        ("INF 1:1", "the label is INF"),
        ("1 2147483648:1", "index 2147483648 is beyond 2147483647"),
        ("1 4294967296:1", "index 4294967296 is beyond"),
        ("1 4294967297:1", "index 4294967297 is beyond"),
        ("1 18446744073709551617:1", "index 18446744073709551617 is beyond"),
        (f"1 {'9' * 5000}:1", "index 99999999999999999999 is beyond"),
        ("1 qid:3 1:1", "no index:value"),
        ("1,2 1:1", "no label"),
        ("1 1:\u0663", "no number"),
        ("1 1:1:1", "no number"),
        ("1 -1:1", "no index:value"),
    ],
)
def test_a_bad_line_is_named(line, what, tmp_path):
    path = tmp_path / "set"
    text = f"1 1:2\n-1 2:3\n{line}\n1 1:1\n"
    for newline in ("\n", "\r\n", "\r"):  # lines count alike whatever ends them
        path.write_bytes(text.replace("\n", newline).encode())
        with pytest.raises(DataError, match=f"set, line 3: .*{what}"):
            load_libsvm(path=path)


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n", "\ufeff"])
def test_an_empty_file_is_refused(content, tmp_path):
    path = tmp_path / "set"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="empty"):
        load_libsvm(path=path)


@pytest.mark.parametrize(
    "labels, coded",
    [
        (["1", "2"], [-1, 1]),
        (["0", "1"], [-1, 1]),
        (["+1", "-1"], [1, -1]),
        (["3", "1", "2"], [3, 1, 2]),  # classes
        (["0.5", "-1.25e1", "7"], [0.5, -12.5, 7]),  # targets
        (["1", "1"], [1, 1]),  # a part with one class
        (["-1"], [-1]),
        (["0", "0"], [-1, -1]),
        (["2"], [2]),
    ],
)
def test_labels_of_any_kind(labels, coded, tmp_path):
    path = tmp_path / "set"
    path.write_text("".join(f"{label} 1:2\n" for label in labels))
    X, y = load_libsvm(path=path)
    assert y.tolist() == coded
    assert y.dtype == np.float64
    assert X.shape == (len(labels), 1)


def test_a_named_set_needs_its_two_classes():
    with pytest.raises(DataError, match="3 different labels"):
        libsvm.signs([1, 2, 3])


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "BOM"])
def test_line_ends_and_a_byte_order_mark(newline, mark, tmp_path):
    path = tmp_path / "set"
    text = mark + newline.join(["+1 1:2.5E0 3:-1", "-1 2:.5  # a comment 1:9", "", "+1"])
    path.write_bytes(text.encode())
    X, y = load_libsvm(path=path)
    assert X.toarray().tolist() == [[2.5, 0, -1], [0, 0.5, 0], [0, 0, 0]]
    assert y.tolist() == [1, -1, 1]


def test_utf16_is_named(tmp_path):
    path = tmp_path / "set"
    path.write_text("1 1:2\n", encoding="utf-16")
    with pytest.raises(DataError, match="UTF-16: save it as plain text"):
        load_libsvm(path=path)


def test_features_fix_the_columns(tmp_path):
    path = tmp_path / "set.t"
    path.write_text("1 1:2\n-1 3:4\n")
    X, _ = load_libsvm(path=path, features=5)
    assert X.shape == (2, 5)
    assert load_libsvm(path=path)[0].shape == (2, 3)
    with pytest.raises(DataError, match="line 2: index 3 is beyond the 2 features"):
        load_libsvm(path=path, features=2)
    for wrong in (0, -1, 1.5, "3", 2**31):
        with pytest.raises(InvalidArgument, match="features"):
            load_libsvm(path=path, features=wrong)
        with pytest.raises(InvalidArgument, match="features"):
            load_libsvm("breast_cancer", features=wrong)
    X, _ = load_libsvm("breast_cancer", features=33)
    assert X.shape == (569, 33)
    assert X[:, 30:].nnz == 0
    with pytest.raises(DataError, match="30 features, more than the 29"):
        load_libsvm("breast_cancer", features=29)


def test_the_largest_index_is_read(tmp_path):
    path = tmp_path / "set"
    path.write_text("1 2147483647:3\n-1 1:1\n")
    X, _ = load_libsvm(path=path)
    assert X.shape == (2, 2**31 - 1)
    assert X[0, 2**31 - 2] == 3


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKERS)
def test_compressed_files_whole_or_not_at_all(ending, tmp_path):
    pack = PACKERS[ending]
    for name in (f"set{ending}", f"SET{ending.upper()}"):
        path = tmp_path / name
        path.write_bytes(pack(b"1 1:2\n") + pack(b"-1 2:3\n"))  # two streams are one file
        X, _ = load_libsvm(path=path)
        assert X.toarray().tolist() == [[2, 0], [0, 3]]
        for rest in (b"1 1:2\n", pack(b"-1 2:3\n")[:-4]):
            path.write_bytes(pack(b"1 1:2\n-1 1:1\n") + rest)
            with pytest.raises(DataError, match="cannot be read"):
                load_libsvm(path=path)


def test_capitals_in_a_name():
    assert load_libsvm("Breast_Cancer")[0].shape == (569, 30)


def test_a_missing_file_and_an_unknown_name(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        load_libsvm(path=tmp_path / "nowhere")
    with pytest.raises(UnknownName, match="did you mean 'splice'"):
        load_libsvm("splic")


@pytest.fixture
def site(tmp_path, monkeypatch, server, empty_cache):
    "A local server in place of the LIBSVM page; covtype shrunk to two lines of the same form."
    folder = tmp_path / "site"
    folder.mkdir()
    url, _ = server(folder)
    monkeypatch.setattr(libsvm, "LIBSVM_SITE", url)
    two_rows = libsvm.LIBSVM_SETS["covtype"]._replace(rows=2, classes=(1, 1))
    monkeypatch.setitem(libsvm.LIBSVM_SETS, "covtype", two_rows)
    return folder


def test_covtype_from_a_server_then_from_the_cache(site):
    packed = site / "covtype.libsvm.binary.bz2"
    packed.write_bytes(bz2.compress(COVTYPE_FORM.encode()))
    for _ in range(2):
        X, y = load_libsvm("covtype")
        assert sparse.isspmatrix_csr(X)
        assert X.shape == (2, 54)
        assert X.dtype == np.float64
        assert X[1, 4] == -6
        assert X[0, 42] == 1
        assert y.tolist() == [1, -1]
        packed.unlink(missing_ok=True)


def test_a_truncated_download_a_wrong_file_and_none(site):
    packed = site / "covtype.libsvm.binary.bz2"
    packed.write_bytes(bz2.compress(COVTYPE_FORM.encode())[:-8])
    with pytest.raises(DataError, match="truncated"):
        load_libsvm("covtype")
    packed.write_bytes(bz2.compress(b"1 1:2\n2 1:3\n1 2:2\n"))
    with pytest.raises(DataError, match="holds 3 items, expected 2"):
        load_libsvm("covtype")
    (site / "splice").write_text("1 1:2\n-1 1:3\n")
    with pytest.raises(DataError, match="sha256"):
        load_libsvm("splice")
    with pytest.raises(DataError, match="IMPSAMP_DATA"):
        load_libsvm("australian")


def test_a_wrong_local_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "libsvm").mkdir()
    (tmp_path / "libsvm" / "splice").write_text("1 1:2\n-1 1:3\n")
    monkeypatch.setenv("IMPSAMP_DATA", str(tmp_path))
    with pytest.raises(ChecksumError, match="splice"):
        load_libsvm("splice")


@needs_files
@pytest.mark.parametrize(
    "name, shape",
    [
        ("australian", (690, 14)),
        ("splice", (1000, 60)),
        ("splice.t", (2175, 60)),
        ("ijcnn1.val", (14990, 22)),
        ("w8a", (49749, 300)),
    ],
)
def test_real_sets(name, shape):
    X, y = load_libsvm(name)
    assert X.shape == shape
    assert set(y) == {-1.0, 1.0}


@needs_files
def test_w8a_has_empty_rows_and_few_positives():
    X, y = load_libsvm("w8a")
    assert (y > 0).sum() == 1479
    assert (np.diff(X.indptr) == 0).any()
    assert round(X.nnz / X.shape[0], 1) == 11.7


def test_the_sizes_of_classes_stand_in_for_a_checksum(site, monkeypatch):
    packed = site / "covtype.libsvm.binary.bz2"
    packed.write_bytes(bz2.compress(COVTYPE_FORM.encode()))
    source = libsvm.LIBSVM_SETS["covtype"]._replace(classes=(0, 2))
    monkeypatch.setitem(libsvm.LIBSVM_SETS, "covtype", source)
    with pytest.raises(DataError, match=r"classes of \(1, 1\) items, expected \(0, 2\)"):
        load_libsvm("covtype")


@needs_files
def test_the_papers_constants_on_australian():
    problem = SigmoidLeastSquares(*load_libsvm("australian"))
    n = problem.n
    L = problem.L
    p = minibatch_probabilities(L, 10)
    assert (p < 1).sum() == 685
    assert abs(alpha(L, p, 1 - p) - 0.028) < 5e-4
    uniform = np.full(n, 10 / n)
    nice = np.full(n, (n - 10) / (n - 1))
    assert abs(alpha(L, uniform, nice) - 207) < 1
