"""Figures and tables as files: the same bytes from the same numbers, and refused names."""

import io
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from impsamp.errors import InvalidArgument
from impsamp.reproduce import figures


@pytest.fixture(autouse=True)
def no_open_figures():
    with plt.style.context(figures.STYLE):
        yield
    plt.close("all")


def drawing():
    fig, ax = plt.subplots(figsize=(3, 2))
    figures.plot_runs(ax, [0, 1], [[1.0, 2.0], [3.0, 4.0]], name="gn")
    ax.legend()
    return fig


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    first = figures.save_figure(drawing(), "fig0_try", tmp_path / "first")
    again = figures.save_figure(drawing(), "fig0_try", tmp_path / "again")
    for one, other in zip(first, again):
        assert one != other
        assert one.read_bytes() == other.read_bytes()


def test_a_saved_figure_is_closed(tmp_path):
    fig = drawing()
    figures.save_figure(fig, "fig0_try", tmp_path)
    assert not plt.fignum_exists(fig.number)


def test_nothing_in_a_figures_file_names_a_day_or_a_programme(tmp_path):
    svg, png = figures.save_figure(drawing(), "fig0_try", tmp_path)
    assert svg == tmp_path / "fig0_try.svg"
    assert png == tmp_path / "fig0_try.png"
    text = svg.read_text()
    assert "dc:date" not in text
    assert "Matplotlib" not in text
    assert b"Software" not in png.read_bytes()


@pytest.mark.parametrize("name", ["Fig 1", "fig__1", "fig-1", "../fig1", "fig1_", ""])
def test_names_are_lower_case_words(name, tmp_path):
    for save, content in (
        (figures.save_figure, plt.figure()),
        (figures.save_table, pd.DataFrame({"a": [1]})),
    ):
        with pytest.raises(InvalidArgument, match="lower case letters"):
            save(content, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_table_for_a_programme_and_for_a_reader(tmp_path):
    table = pd.DataFrame({"a": [1, 2], "b": [1 / 3, np.nan], "c": ["x|y", "two\nlines"]})
    csv, page = figures.save_table(table, "table0_try", tmp_path, note="Read this.")
    assert csv.read_bytes() == b'a,b,c\n1,0.333333,x|y\n2,,"two\nlines"\n'
    assert page.read_text().splitlines() == [
        "Read this.",
        "",
        "| a | b | c |",
        "| --- | --- | --- |",
        "| 1 | 0.3333 | x\\|y |",
        "| 2 | – | two lines |",
    ]


def test_text_goes_to_the_folder_of_figures_unless_told(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPSAMP_OUTPUT", str(tmp_path))
    assert figures.save_text("a\n", "page.md") == tmp_path / "figures" / "page.md"
    assert figures.save_text("a\n", "page.md", tmp_path / "b") == tmp_path / "b" / "page.md"
    assert (tmp_path / "b" / "page.md").read_bytes() == b"a\n"


def band_of(ax):
    "Lowest and highest y of the band at x = 0 and x = 1."
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    found = []
    for x in (0, 1):
        heights = corners[corners[:, 0] == x, 1]
        found.append((heights.min(), heights.max()))
    return found


def test_mean_and_one_standard_deviation_by_hand():
    "Runs 1, 3 at the first point and 2, 2 at the second: mean 2 and 2, spread sqrt(2) and 0."
    _, ax = plt.subplots()
    line = figures.plot_runs(ax, [0, 1], [[1.0, 2.0], [3.0, 2.0]], name="u")
    assert line.get_ydata().tolist() == [2, 2]
    assert band_of(ax)[0] == pytest.approx((2 - 2**0.5, 2 + 2**0.5))
    assert band_of(ax)[1] == pytest.approx((2, 2))


def test_median_and_quartiles_by_hand():
    runs = [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [100.0, 1.0]]
    _, ax = plt.subplots()
    line = figures.plot_runs(ax, [0, 1], runs, name="u", centre="median")
    assert line.get_ydata().tolist() == [2, 1]
    assert band_of(ax)[0] == (1, 3)


def test_a_name_gives_colour_and_label_unless_told():
    _, ax = plt.subplots()
    gn = figures.plot_runs(ax, [0, 1], [[1.0, 2.0]] * 2, name="gn", band=False)
    assert (gn.get_color(), gn.get_label()) == (figures.COLORS["gn"], "$p^{GN}$")
    own = figures.plot_runs(ax, [0, 1], [[1.0, 2.0]] * 2, name="mine", text="ours", color="red")
    assert (own.get_color(), own.get_label()) == ("red", "ours")
    assert figures.label("mine") == "mine"
    assert len(ax.collections) == 1


def test_figure_1_reaches_from_uniform_to_ideal():
    _, ax = plt.subplots()
    figures.plot_between(ax, [0.1, 0.3, 0.6])
    heights = [bar.get_segments()[0][0][1] for bar in ax.collections]
    assert heights == pytest.approx([1 / 3, 0.1, 1 / 3, 0.3, 1 / 3, 0.6])
    arrows = [(text.xy, text.xyann) for text in ax.texts]
    assert arrows == [((1, 0.1), (1, 1 / 3)), ((2, 0.3), (2, 1 / 3)), ((3, 0.6), (3, 1 / 3))]
    assert ax.get_ylim() == pytest.approx((0, 0.69))
    assert len(ax.get_legend_handles_labels()[1]) == 3


def test_the_style_is_one_file():
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figures.set_style()
        assert matplotlib.rcParams["font.size"] == 9.6
        assert matplotlib.rcParams["axes.spines.top"] is False


def test_lines_of_two_colours_stay_two_in_a_thumbnail():
    picture = Path(__file__).parents[2] / "figures" / "fig4_time.png"
    with Image.open(io.BytesIO(figures._thumbnail(picture))) as small:
        pixels = np.asarray(small.convert("RGB"), dtype=float).reshape(-1, 3)
    for name in ("u", "half"):
        away = np.abs(pixels - 255 * np.array(to_rgb(figures.COLORS[name]))).max(1)
        assert away.min() < 10  # 35 by the palette that goes by area
