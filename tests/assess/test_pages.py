"""Pages: does the theory speak, does a scheme pay; words and pictures that say the rows."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.assess.pages import (
    Assessment,
    payment,
    plot_evolution,
    plot_histograms,
    theory_applies,
    write_page,
)
from impsamp.errors import InvalidArgument, UnknownName
from tests.assess.helpers import a_row


def test_theory_applies_to_sgd_only():
    w = [nn.Parameter(torch.zeros(1))]
    for make, yes in (
        (torch.optim.SGD, True),
        (torch.optim.RMSprop, False),
        (torch.optim.Adam, False),
        (torch.optim.AdamW, False),
    ):
        assert theory_applies(make(w, lr=0.1)) is yes
    assert theory_applies(None) is None


def test_a_name_of_an_optimizer_is_one_of_the_known():
    assert theory_applies("SGD") is True and theory_applies("adamw") is False
    with pytest.raises(UnknownName, match="did you mean 'adam'"):
        theory_applies("adm")


def test_page_withholds_the_theory_from_adam_and_counts_misleading_distances():
    rows = [a_row(tv_p=0.05), a_row(tv_p=0.05, second_moment_ratio=2.0)]
    text = write_page(Assessment("s", rows, scope="all", optimizer="adam"))
    assert "**No**: for adam p^GN is not optimal" in text
    assert "| total variation | 0.05 | 0.1 | 2 of 2 | 1 | 0 |" in text
    assert "It depends on the moment" in text
    assert "on average it is" in text
    assert "better at 1 of 2" in text


@pytest.mark.parametrize(
    "ratios,words",
    [
        ((0.5,), "**Yes**."),
        ((0.5, 0.5), "**Yes**, at all 2 evaluations."),
        ((2.0,), "**No, it is worse.**"),
        ((2.0, 2.0), "**No, it is worse**, at all 2 evaluations."),
        ((0.5, 0.5, 2.0), "**Mostly**: better at 2 of 3 evaluations, worse at 1,"),
        ((2.0, 2.0, 0.5), "**Mostly worse**: better at 1 of 3 evaluations, worse at 2,"),
    ],
)
def test_first_sentence(ratios, words):
    rows = [a_row(second_moment_ratio=r) for r in ratios]
    assert words in Assessment("s", rows).page()


def test_page_tells_what_was_left_out_and_of_bias():
    page = Assessment("s", [a_row()], skipped=3, unbiased=False).page()
    assert "3 evaluations had no gradient at all" in page
    assert "**Biased by design**" in page
    plain = Assessment("s", [a_row()]).page()
    assert "no gradient" not in plain and "Biased" not in plain


def test_payment_breaks_even_where_it_says():
    s = dict(variance_ratio=0.25, scores_cost=0.3)
    for batch, pays in ((5, False), (11, True)):  # N = 100, c = 0.3: B* = 100 * 0.3 / 3 = 10
        assert (0.25 * (1 + 100 * 0.3 / batch) < 1) is pays
    words, ratio = payment(s, "all", 100, batch=20)
    assert "from a batch of 10 on" in words
    assert ratio == pytest.approx(min(0.25 * 2.5, (0.5 + 0.3**0.5) ** 2))
    assert payment(s, "visits", 100)[1] == 0.25


def test_payment_refused():
    dear, _ = payment(dict(variance_ratio=0.25, scores_cost=9.0), "all", 100)
    assert dear.startswith("No")
    useless, _ = payment(dict(variance_ratio=1.2, scores_cost=0.1), "all", 100)
    assert useless.startswith("No: it removes no variance")
    unknown, ratio = payment(dict(variance_ratio=np.nan, scores_cost=0.1), "all", 100)
    assert unknown.startswith("Not measured") and np.isnan(ratio)


def test_assessment_in_one_line_as_a_table_and_without_rows():
    a = Assessment("GradNorm", [a_row(), a_row(second_moment_ratio=2.0)], scope="all")
    assert repr(a) == "Assessment('GradNorm', 2 evaluations, scope='all')"
    assert a.table().verdict.tolist() == ["better", "worse"]
    assert str(a) == a.page() == a._repr_markdown_()
    with pytest.raises(InvalidArgument, match="no evaluation yet"):
        Assessment("GradNorm").page()


def counted(outline):
    "What a filled step histogram holds: the heights of its level stretches."
    xy = outline.get_xy()
    return sum(a[1] for a, b in itertools.pairwise(xy) if a[1] == b[1] and a[0] != b[0])


@pytest.fixture
def closing():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def test_histograms_hold_every_finite_distance(closing):
    rows = [a_row(tv_p=0.01 * t, chi2_p=np.inf if t == 3 else 10.0**-t) for t in range(6)]
    fig = plot_histograms(Assessment("s", rows), ("tv", "chi2"))
    tv, chi2 = fig.axes
    assert sum(map(counted, tv.patches)) == 12
    assert sum(map(counted, chi2.patches)) == 11 and "1 infinite" in chi2.get_title()
    # a picture sets formulas, a page plain letters
    assert chi2.get_title().startswith(r"$\chi^2$(·, $p^{GN}$)")
    assert chi2.get_xscale() == "log" and tv.get_xscale() == "linear"
    with pytest.raises(UnknownName, match="did you mean 'tv'"):
        plot_histograms(Assessment("s", rows), ("tvv",))


def test_evolution_has_a_column_per_assessment(closing):
    rows = [a_row(step=10 * t, second_moment_ratio=0.5 + t / 10) for t in range(4)]
    fig = plot_evolution([Assessment("s", rows), Assessment("t", rows[:2])])
    assert len(fig.axes) == 4
    steps, ratios = fig.axes[0].lines[0].get_data()
    assert steps.tolist() == [0, 10, 20, 30] and np.allclose(ratios, [0.5, 0.6, 0.7, 0.8])


def test_an_assessment_without_evaluations_is_shown_by_its_name():
    empty = Assessment("nothing yet")
    assert empty._repr_markdown_() == repr(empty)


def test_the_batch_from_which_on_scores_pay_is_the_first_that_pays():
    # 1000 * 0.01 * 0.9 / (1 - 0.9) is 90.00000000000001 in the computer
    words, _ = payment(dict(variance_ratio=0.9, scores_cost=0.01), "all", 1000)
    assert "from a batch of 90 on" in words
