"""Every error is one of ours and one of Python's own, and a name that is not known gets a hint."""

import inspect
import warnings

import pytest

import impsamp
from impsamp import errors
from impsamp.errors import (
    ImpsampError,
    InvalidArgument,
    UnknownName,
    deprecated,
    unknown,
    version_numbers,
    warn_user,
)

PYTHONS_OWN = {
    "InvalidProbabilities": ValueError,
    "InvalidScores": ValueError,
    "InvalidShape": ValueError,
    "InvalidArgument": ValueError,
    "UnknownName": ValueError,
    "UnsupportedModel": TypeError,
    "DataError": OSError,
    "ChecksumError": OSError,
    "DataUnavailable": OSError,
    "RecordError": RuntimeError,
    "Diverged": ArithmeticError,
    "MissingExtra": ImportError,
}


def test_the_table_holds_every_error():
    classes = {k for k, v in vars(errors).items() if isinstance(v, type)}
    ours = {k for k in classes if issubclass(getattr(errors, k), Exception)}
    assert ours == {"ImpsampError", *PYTHONS_OWN}


@pytest.mark.parametrize("name, python", PYTHONS_OWN.items())
def test_an_error_is_caught_as_ours_and_as_pythons(name, python):
    kind = getattr(errors, name)
    for caught in (ImpsampError, python):
        with pytest.raises(caught, match="what and where"):
            raise kind("what and where")


def test_a_wrong_file_is_a_bad_file():
    assert issubclass(errors.ChecksumError, errors.DataError)


def test_unknown_hints_at_the_nearest_and_lists_all_in_order():
    error = unknown("scheme", "GradNrom", ["Uniform", "GradNorm"])
    assert isinstance(error, UnknownName)
    assert str(error) == (
        "unknown scheme 'GradNrom': did you mean 'GradNorm'? choose from GradNorm, Uniform"
    )


def test_unknown_gives_no_hint_where_nothing_is_near():
    assert str(unknown("profile", 7, {"smoke": 1, "paper": 2})) == (
        "unknown profile 7: choose from paper, smoke"
    )


# --- names that go


@deprecated(since="0.2.0", removed_in="0.4.0", instead="twice(x)")
def double(x, *, times=2):
    "Two times x."
    return times * x


@deprecated(since="0.2.0", removed_in="0.10.0", instead="New")
class Old:
    "A class that was."

    def __init__(self, a, b=1):
        self.sum = a + b


class Child(Old):
    pass


def test_a_call_works_and_warns_at_the_callers_line():
    with pytest.warns(FutureWarning) as told:
        assert double(3, times=4) == 12
    assert str(told[0].message) == (
        "double is deprecated since 0.2.0 and will be removed in 0.4.0: use twice(x)"
    )
    assert told[0].filename == __file__


@pytest.mark.parametrize("kind", [Old, Child])
def test_making_one_of_a_class_warns_and_the_class_stays_itself(kind):
    with pytest.warns(FutureWarning, match=r"Old is deprecated .* use New") as told:
        made = kind(2, b=3)
    assert told[0].filename == __file__
    assert made.sum == 5
    assert isinstance(made, Old)


def test_nothing_is_said_until_it_is_called():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert callable(double)
        assert issubclass(Child, Old)


def test_name_signature_and_docstring_stay_and_the_docstring_says_it():
    assert double.__name__ == "double"
    assert list(inspect.signature(double).parameters) == ["x", "times"]
    assert list(inspect.signature(Old).parameters) == ["a", "b"]
    assert double.__doc__.startswith("**Deprecated.** double is deprecated since 0.2.0")
    assert double.__doc__.endswith("Two times x.")
    assert double.__removed_in__ == "0.4.0"
    assert double.__deprecated__ in double.__doc__


@pytest.mark.parametrize(
    "since, removed_in", [("0.3.0", "0.3.0"), ("0.10.0", "0.9.0"), ("0.3.0", "soon")]
)
def test_versions_are_checked_where_it_is_written(since, removed_in):
    with pytest.raises(InvalidArgument, match=r"must come after|numbers and dots"):
        deprecated(since=since, removed_in=removed_in, instead="x")


def test_ten_comes_after_nine():
    assert version_numbers("0.10.0") > version_numbers("0.9.9")


def overdue(home, version):
    "Names of `home` that should be gone by `version`."
    marked = {name: getattr(home.__dict__[name], "__removed_in__", None) for name in vars(home)}
    now = version_numbers(version)
    return [name for name, until in marked.items() if until and version_numbers(until) <= now]


def test_no_public_name_outlives_its_day():
    for name in impsamp.__all__:
        getattr(impsamp, name)
    assert overdue(impsamp, impsamp.__version__) == []


def test_what_is_overdue_would_be_found():
    home = type("home", (), {"double": double, "Old": Old})
    assert overdue(home, "0.4.0") == ["double"]
    assert overdue(home, "0.10.0") == ["double", "Old"]


def test_a_warning_names_the_line_outside_the_package_however_deep_it_comes_from():
    inner = {"__name__": "impsamp.somewhere", "warn_user": warn_user}
    exec("def deep(k):\n    deep(k - 1) if k else warn_user('mind')", inner)
    for depth in range(3):
        with pytest.warns(RuntimeWarning, match="mind") as told:
            inner["deep"](depth)
        assert told[0].filename == __file__
