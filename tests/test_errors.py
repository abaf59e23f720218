"""Every error is one of ours and one of Python's own, and a name that is not known gets a hint."""

import pytest

from impsamp import errors
from impsamp.errors import ImpsampError, UnknownName, unknown

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
