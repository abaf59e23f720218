"""The front page: pasted in order its fragments run, and print what is shown."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch

README = Path(__file__).parents[2] / "README.md"
if not README.exists():
    pytest.skip("no README.md here (installed package)", allow_module_level=True)

TEXT = README.read_text()
NAMES, PROBE, DRAWING, THINNING, OWN = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SHOWN = re.search(r"```\n(# Probe.*?)```", TEXT, re.DOTALL).group(1)
TIMED = r"The best that can.*"  # what a clock decides


def pasted(*fragments):
    names = {}
    for fragment in fragments:
        exec(fragment, names)
    return names


def loss_of(names):
    x, y = names["dataset"].tensors
    with torch.no_grad():
        return names["loss_fn"](names["model"](x), y).mean().item()


def test_names_are_defined_and_a_plain_epoch_learns():
    assert 0.01 < loss_of(pasted(NAMES)) < 0.1  # ln 2 = 0.69 before


@pytest.mark.parametrize("loop", [DRAWING, THINNING], ids=["drawing", "thinning"])
def test_a_changed_loop_runs_and_learns(loop):
    names = pasted(NAMES)
    before = loss_of(names)
    exec(loop, names)
    assert loss_of(names) < 0.7 * before


def words(text):
    return " ".join(re.sub(TIMED, "", " ".join(text.split())).split())


@pytest.mark.full
def test_the_probe_answers_as_shown_but_for_the_times():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        pasted(NAMES, PROBE)
    assert "do not bother" in out.getvalue()
    assert words(out.getvalue().split("|")[0]) == words(SHOWN)
    assert "0.65 of the steps (it removes 84%" in words(SHOWN)


def test_a_scheme_of_your_own_in_ten_lines_trains_and_resumes():
    from impsamp.training import train

    assert len(OWN.strip().splitlines()) <= 10
    names = pasted(NAMES, OWN)
    scheme = names["Clipped"]()
    task = [names[name] for name in ("model", "loss_fn")]
    x, y = (tensor[:64] for tensor in names["dataset"].tensors)
    train(*task, x, y, names["optimizer"], scheme, batch=8, steps=30, seed=0)
    p = scheme.probabilities()
    assert np.isclose(p.sum(), 1)
    assert np.ptp(p) > 0
    again = names["Clipped"]().init(64)
    again.load_state_dict(scheme.state_dict())
    assert (again.probabilities() == scheme.probabilities()).all()


def prose_of(text):
    "The words of a page apart from code, tables and addresses."
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line for line in plain.splitlines() if not line.startswith("|")]
    return re.sub(r"\]\([^)]*\)", "]", "\n".join(lines)).split()


def test_the_front_page_is_read_in_minutes():
    assert len(prose_of(TEXT)) <= 700
    assert TEXT.index("![") < TEXT.index("## ")  # a picture before the first section
