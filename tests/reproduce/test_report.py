"""The report: self-contained, every item there, what was computed and what was kept."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from impsamp.errors import RecordError
from impsamp.reproduce import report as module
from impsamp.reproduce.manifest import entries, load_manifest
from impsamp.reproduce.report import Item, interval_picture, read_items, report, write_report

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Seen(HTMLParser):
    "Ids, links and sources of a page."

    def __init__(self):
        super().__init__()
        self.ids = []
        self.links = []
        self.sources = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.sources += [given["src"]] if "src" in given else []


def seen(page):
    found = Seen()
    found.feed(page)
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return report(tmp_path_factory.mktemp("run"))


def test_everything_is_in_the_page(page):
    found = seen(page)
    assert found.sources
    assert all(source.startswith("data:image/") for source in found.sources)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    assert "has not been drawn" not in page


def test_links_lead_somewhere(page, tmp_path):
    found = seen(report(ROOT / "_runs" / "paper"))
    inside = {link[1:] for link in found.links if link.startswith("#")}
    assert inside <= set(found.ids)
    outside = [link for link in found.links if not re.match(r"#|data:|https?:", link)]
    folder = ROOT / "_runs" / "paper"
    missing = [x for x in outside if not Path(f"{folder}/{x}".split("#")[0]).resolve().exists()]
    assert missing == []


def test_items_name_what_exists():
    known = {entry["id"] for _, entry in entries(load_manifest())}
    for items in read_items().values():
        for item in items:
            assert set(item.of) <= known
            assert all((ROOT / file).is_file() for file in item.files), item.files


def test_every_experiment_stands_on_the_page():
    named = {name for items in read_items().values() for item in items for name in item.of}
    experiments = {e["id"] for kind, e in entries(load_manifest()) if kind == "experiment"}
    assert experiments - named <= {"probe_check"}


def test_says_what_was_computed_and_what_was_kept(tmp_path):
    became = [
        dict(id="a", kind="experiment", state="computed", seconds=2.0, settings={}, why=""),
        dict(
            id="b",
            kind="experiment",
            state="partly",
            seconds=1.0,
            why="",
            settings={"one": "computed", "two": "kept from committed records, because <none>"},
        ),
        dict(id="c", kind="result", state="failed", seconds=0.1, settings={}, why="it broke\nhere"),
    ]
    (tmp_path / "summary.json").write_text(json.dumps(dict(profile="paper", became=became)))
    items = {"Chapter": [Item("T", "says", (), ("a", "b")), Item("U", "says", (), ("nowhere",))]}
    page = report(tmp_path, items)
    assert "1 computed, 1 partly" in page
    assert "this run computed none of it" in page
    assert "two: kept from committed records, because &lt;none&gt;" in page
    assert "it broke" in page and "here</td>" not in page
    assert "python -m impsamp.reproduce run a b" in page


def test_without_a_run_it_says_so(page):
    assert "No run has left a summary" in page


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPSAMP_OUTPUT", str(tmp_path))
    page = report(tmp_path, {"C": [Item("T", "says", ("figures/none.png",))]})
    assert "figures/none.png has not been drawn in this run" in page


def test_what_the_paper_says_is_escaped(tmp_path):
    page = report(tmp_path, {"C": [Item("<b>T</b>", "a < b & c", ())]})
    assert "&lt;b&gt;T&lt;/b&gt;" in page
    assert "a &lt; b &amp; c" in page


def test_unknown_keys_are_refused(tmp_path):
    path = tmp_path / "report.toml"
    path.write_text('[[chapter]]\ntitle = "C"\n[[chapter.item]]\ntitle = "T"\nsaid = "x"\n')
    with pytest.raises(RecordError, match="said"):
        read_items(path)


@pytest.mark.parametrize(
    ("effect", "low", "high", "side"),
    [
        (0.5, 0.2, 0.9, "better"),
        (2, 1.1, 3, "worse"),
        (1, 0.9, 1.1, "none"),
        (9, 1e-9, 1e9, "none"),
    ],
)
def test_pictures_of_intervals_stay_in_their_box(effect, low, high, side):
    drawn = interval_picture(effect, low, high)
    assert f'class="interval {side}"' in drawn
    places = [float(x) for x in re.findall(r'(?:x1|x2|cx)="([\d.]+)"', drawn)]
    assert all(0 <= x <= 131 for x in places)


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    def broken(folder):
        raise RecordError("no")

    monkeypatch.setattr(module, "report", broken)
    with pytest.raises(RecordError):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


FRAME = """<!doctype html><body style="margin:0">
<iframe id="page" src="report.html" style="border:0;width:{width}px;height:900px"></iframe>
<script>
document.getElementById("page").onload = (event) => {{
  const inside = event.target.contentDocument
  document.title = `wide ${{inside.documentElement.scrollWidth}} of ${{inside.images.length}}`
}}
</script></body>"""


@pytest.mark.full
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_nothing_is_wrong(tmp_path, width):
    write_report(tmp_path)
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width))
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=8000",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert "CONSOLE" not in done.stderr
    wide, pictures = map(int, re.search(r"<title>wide (\d+) of (\d+)", done.stdout).groups())
    assert wide <= width  # nothing but tables scrolls sideways
    assert pictures > 10
