"""Tutorials are read with pictures, run in seconds by the tests, and show what a full run gave."""

import re

import pytest

from tests.house.repository import ROOT, cells, source

TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("[0-9]*.ipynb"))
SWITCH = 'FULL = os.environ.get("IMPSAMP_TUTORIAL") == "full"'


def code_of(nb):
    return [c for c in cells(nb) if c["cell_type"] == "code"]


def outputs_of(nb):
    return [output for c in code_of(nb) for output in c["outputs"]]


@pytest.mark.parametrize("nb", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_promises_shows_and_ends_with_what_it_comes_to(nb):
    texts = [source(c) for c in cells(nb) if c["cell_type"] == "markdown"]
    assert re.match(r"# .+\n\n> .+", texts[0]), "a title, and one line that promises"
    headings = re.findall(r"^## (.+)$", "\n".join(texts), re.M)
    assert headings[-1] == "What it comes to"
    pictures = [o for o in outputs_of(nb) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 2, "one picture per idea"


@pytest.mark.parametrize("nb", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_has_one_switch_and_exports_nothing(nb):
    code = "\n".join(map(source, code_of(nb)))
    assert code.count(SWITCH) == 1
    assert "#| export" not in code
    assert not re.search(r"from impsamp\S* import .*\b_\w", code), "public names only"


@pytest.mark.parametrize("nb", TUTORIALS, ids=lambda p: p.stem)
def test_what_a_tutorial_shows_is_a_full_run_without_complaint(nb):
    said = [o for o in outputs_of(nb) if o.get("name") == "stderr"]
    assert said == [], "a reader wonders about warnings"
    shown = "".join("".join(o.get("text", "")) for o in outputs_of(nb))
    assert "full run" in shown, "the first cell prints which run it was"
