"""Pages in a notebook: every character escaped, the words as markdown-it has them, a picture."""

import base64
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from impsamp import extras
from impsamp.assess import Assessment, Probe
from impsamp.assess.display import page_html
from impsamp.assess.remembering import Remembering
from impsamp.errors import InvalidArgument, MissingExtra
from tests.assess.helpers import a_row

EVIL = "<script>alert('x')</script> & `co|`"


def a_probe(scheme="loss, pool"):
    def candidate(scheme, pool, time):
        names = ("variance_ratio", "variance_low", "variance_high", "steps_ratio", "cost_ratio")
        times = {"time_ratio": time, "time_low": 0.9 * time, "time_high": 1.1 * time}
        return {"scheme": scheme, "pool": pool, **dict.fromkeys(names, 0.5), **times}

    facts = dict(
        population=100,
        sample_size=50,
        batch=5,
        noise_scale=10.0,
        noise_per_batch=2.0,
        noise_share=0.6,
        remembered=Remembering(2.0, 1.2, 10, 0.66),
        step_seconds=0.01,
        rounds=3,
        loading="",
    )
    return Probe([candidate("ideal", 100, 0.5), candidate(scheme, 10, 0.8)], facts, {})


def an_assessment(name="GradNorm", rows=3):
    return Assessment(name, [a_row(step=t) for t in range(rows)], scope="all", about="a | b")


class Text(HTMLParser):
    "The tags of a page in order, and its words."

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.words = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words += data.split()


@pytest.mark.parametrize("shown", [a_probe(), an_assessment(), an_assessment(rows=1)])
def test_a_page_is_what_markdown_it_makes_of_it(shown):
    ours = Text(page_html(shown.page()))
    theirs = Text(MarkdownIt().enable("table").render(shown.page()))
    assert ours.tags == theirs.tags
    assert ours.words == theirs.words
    assert {"h1", "table", "td", "p"} <= set(ours.tags)


@pytest.mark.parametrize("shown", [a_probe(EVIL), an_assessment(EVIL)])
def test_a_name_cannot_become_markup(shown):
    html = shown._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


@given(st.text(alphabet="<>&\"'`*|# \na-"))
def test_only_our_own_tags_come_out(text):
    tags = set(Text(page_html(text)).tags)
    known = "h1 h2 h3 h4 h5 h6 p table thead tbody tr th td strong em code"
    assert tags <= set(known.split())


@pytest.mark.parametrize("shown", [a_probe(), an_assessment(), an_assessment(rows=1)])
def test_the_picture_is_a_png_and_no_figure_stays_open(shown):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', shown._repr_html_())
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert plt.get_fignums() == before


def test_plot_draws_what_the_page_says():
    import matplotlib.pyplot as plt

    (axes,) = a_probe().plot().axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["ideal, for free", "loss, pool of 10"]
    times = [line for line in axes.lines if line.get_marker() == "o"]
    assert times[0].get_xdata().tolist() == [0.5, 0.8]
    figure, own = plt.subplots()
    assert a_probe().plot(own) is figure
    assert len(an_assessment().plot().axes) == 2  # over training
    assert len(an_assessment(rows=1).plot().axes) == 5  # a panel per distance
    plt.close("all")


def test_nothing_to_draw_is_said():
    with pytest.raises(InvalidArgument, match="no evaluation yet"):
        Assessment("GradNorm").plot()
    assert "Assessment(&#x27;GradNorm&#x27;, 0 evaluations" in Assessment("GradNorm")._repr_html_()


@pytest.mark.parametrize("shown", [a_probe(), an_assessment()])
def test_without_matplotlib_a_page_has_no_picture_and_plot_says_what_to_install(shown, monkeypatch):
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda m: None if m == "matplotlib" else found(m))
    with pytest.raises(MissingExtra, match=r"pip install 'impsamp\[plots\]'"):
        shown.plot()
    assert "<img" not in shown._repr_html_()
    assert "<h1>" in shown._repr_html_()
