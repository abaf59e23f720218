"""How the library notebooks read: what is reached is held; a ceiling only goes down."""

import pytest

from tests.house.reading import NBS, Reading, library, together

LOWER = [n for n in library() if str(n.relative_to(NBS)) < "09"]
UPPER = [n for n in library() if n not in LOWER]
CEILINGS = {
    "lower": {
        "cell median": 12,
        "cell max": 93,
        "too long": 0,
        "crowded cells": 0,
        "patches": 0,
        "missing outputs": 0,
        "no example": 0,
    },
    "upper": {
        "cell median": 8,
        "cell max": 80,
        "too long": 4,  # compiled kernels: in pieces a step takes twice as long
        "crowded cells": 0,
        "patches": 0,
        "missing outputs": 0,
        "no example": 0,
    },
}
FLOORS = {
    "lower": {"use per line": 0.73, "words per line": 2.5, "pictures": 70},
    "upper": {"use per line": 0.54, "words per line": 1.8, "pictures": 82},
}
HALVES = {"lower": LOWER, "upper": UPPER}


@pytest.mark.parametrize("half", HALVES)
def test_no_figure_falls_back(half):
    figures = together(HALVES[half]).figures()
    above = {k: figures[k] for k, most in CEILINGS[half].items() if figures[k] > most}
    below = {k: figures[k] for k, least in FLOORS[half].items() if figures[k] < least}
    assert (above, below) == ({}, {}), "python tests/house/reading.py --names tells where"


def reading_of(text, outputs=(), kind="code"):
    reading = Reading()
    reading.add({"cell_type": kind, "source": text, "outputs": list(outputs)})
    return reading


def test_lines_of_an_exported_cell_are_code_alone():
    text = '#| export\ndef f(x):\n    """Doc\n    string."""\n\n    # why\n    return x\n'
    figures = reading_of(text).figures()
    assert (figures["cell max"], figures["public names"], figures["no example"]) == (2, 1, 1)


def test_an_example_is_found_in_a_docstring():
    assert reading_of('#| export\ndef f(x):\n    """Doc.\n\n    >>> f(1)\n    """\n').bare == []


def test_a_long_function_is_found_and_its_decorators_do_not_count():
    body = "    x = 1\n" * 39
    assert reading_of(f"#| export\n@cache\n@other\ndef _f():\n{body}").long == []
    found = reading_of(f"#| export\ndef _f():\n{body}    return x\n").long
    assert found == ["_f has 41 lines, the limit is 40"]


def test_a_long_class_is_found():
    found = reading_of("#| export\nclass A:\n" + "    x = 1\n" * 80).long
    assert found == ["A has 81 lines, the limit is 80"]


def test_two_public_functions_crowd_a_cell_and_helpers_do_not():
    text = "#| export\ndef a(): ...\ndef b(): ...\ndef _c(): ...\n"
    assert reading_of(text).crowded == ["a, b"]
    assert reading_of(text.replace("def b", "def _b")).crowded == []


def test_patches_from_afar_are_found():
    assert reading_of("#| export\nThing.method = f\n").patches == ["Thing.method = f"]
    assert reading_of("#| export\nself_.method = f\n").patches == []


@pytest.mark.parametrize("text", ["x = 1\nx", "print(x)", "fig, ax = plt.subplots()"])
def test_a_missing_output_is_found(text):
    assert len(reading_of(text).missing) == 1
    assert reading_of(text, outputs=[{"data": {}}]).missing == []


@pytest.mark.parametrize("text", ["x = 1", "f(x)", "#| eval: false\nx", "def f():\n    print(1)\n"])
def test_a_cell_that_shows_nothing_misses_nothing(text):
    assert reading_of(text).missing == []


def test_pictures_and_words_are_counted():
    drawn = reading_of("f(x)", outputs=[{"data": {"image/png": "..."}}])
    told = reading_of("three little words", kind="markdown")
    figures = (drawn + told).figures()
    assert (figures["pictures"], figures["words per line"]) == (1, 3.0)
