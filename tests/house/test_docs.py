"""The site's tools: what they keep of a notebook, what they call a fault, the whole site."""

import base64
import functools
import http.server
import importlib.util
import io
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def load(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = load("pages")
smaller = load("smaller")
links = load("links")
browse = load("browse")
HAS_SPHINX = not pages.missing_packages()


def code(text, outputs=()):
    return {"cell_type": "code", "source": [text], "metadata": {}, "outputs": list(outputs)}


def test_directives_are_for_nbdev_and_not_for_readers():
    assert pages.shown_cell(code("#| export\nx = 1"))["source"] == "x = 1"
    assert pages.shown_cell(code("#| default_exp a.b")) is None
    assert pages.shown_cell(code("#| hide\nimport nbdev")) is None
    assert pages.shown_cell(code("# a comment stays"))["source"] == "# a comment stays"


def test_warnings_on_the_error_stream_are_not_shown():
    said = [{"output_type": "stream", "name": name, "text": "x"} for name in ("stdout", "stderr")]
    shown = pages.shown_cell(code("f()", said))
    assert [output["name"] for output in shown["outputs"]] == ["stdout"]


def test_a_results_notebook_without_its_pictures_is_named():
    name = Path("nbs/results/lost.ipynb")
    assert (
        "lost.ipynb was committed without its outputs" in pages.lost_outputs(name, [code("1")])[0]
    )
    shown = code("1", [{"output_type": "display_data", "data": {}}])
    assert pages.lost_outputs(name, [shown]) == []
    assert pages.lost_outputs(Path("nbs/03_theory/x.ipynb"), [code("1")]) == []


def text(words):
    return {"cell_type": "markdown", "source": [words], "metadata": {}}


PICTURE = {"output_type": "display_data", "data": {"image/png": ["aGVs", "bG8="]}}


def test_a_tutorial_without_its_pictures_is_named():
    name = Path("nbs/tutorials/01_lost.ipynb")
    words = code("1", [{"output_type": "stream", "name": "stdout", "text": "x"}])
    assert "01_lost.ipynb was committed without" in pages.lost_outputs(name, [words])[0]
    assert pages.lost_outputs(name, [code("1", [PICTURE])]) == []


def test_the_pictures_of_a_tutorial_come_with_their_headings():
    cells = [text("# T"), text("words\n\n## Where the draws go\n\nmore"), code("1", [PICTURE])]
    assert pages.pictures_of(cells) == [("Where the draws go", b"hello")]


def test_a_card_of_a_tutorial_says_its_title_and_its_promise():
    cell = "# A title\n\n> A promise.\n\n# > no comment"
    assert pages.title_and_promise(cell) == ("A title", "A promise.")
    assert pages.title_and_promise("words") == ("", "")


def test_pictures_of_a_notebook_lose_bytes_and_no_pixels():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 200)[:, None, None] + rng.integers(0, 3, (200, 300, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    shown = {"output_type": "display_data", "data": {"image/png": png}}
    book = smaller.with_smaller_pictures({"cells": [text("x"), code("f()", [shown])]})
    small = base64.b64decode(book["cells"][1]["outputs"][0]["data"]["image/png"])
    assert len(small) < len(buffer.getvalue()) / 2
    with Image.open(io.BytesIO(small)) as picture:
        now = np.asarray(picture.convert("RGB"), dtype=float)
    assert now.shape == ramp.shape
    assert np.abs(now - ramp).mean() < 4
    assert smaller.smaller(small) == small  # nothing more to save


def test_lines_of_two_colours_stay_two():
    png = smaller.smaller((ROOT / "figures" / "fig4_time.png").read_bytes())
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=float).reshape(-1, 3)
    for hue in ((0x01, 0x73, 0xB2), (0x02, 0x9E, 0x73)):  # u and p^1/2
        assert np.abs(pixels - np.array(hue)).max(1).min() < 12


def test_links_to_headings_of_notebooks_are_named_as_the_site_names_them():
    given = "[a](../nbs/x.ipynb#Lemma-2:-it-holds,-%28S%28p%29%29) [b](y.md#As-It-Is)"
    wanted = "[a](../nbs/x.ipynb#lemma-2-it-holds-sp) [b](y.md#As-It-Is)"
    assert pages.site_links(given) == wanted


def test_links_that_a_cell_printed_lead_to_pages():
    said = "[a](../03_theory/x.ipynb) [b](y.md#z) [c](https://d.e/f.md) [g](h.png)"
    output = {"output_type": "display_data", "data": {"text/markdown": [said], "text/plain": "x"}}
    (shown,) = pages.shown_cell(code("f()", [output]))["outputs"]
    wanted = "[a](../03_theory/x.html) [b](y.html#z) [c](https://d.e/f.md) [g](h.png)"
    assert shown["data"] == {"text/markdown": wanted, "text/plain": "x"}
    assert output["data"]["text/markdown"] == [said]


def test_every_committed_page_can_be_shown(tmp_path):
    assert pages.write_source(ROOT, tmp_path / "source", tmp_path / "extra") == []
    gallery = (tmp_path / "source" / "gallery.md").read_text()
    drawn = len(list((ROOT / "figures").glob("*.png")))
    taught = len(list((tmp_path / "extra" / "figures" / "tutorials").glob("*.png")))
    assert taught >= len(list((ROOT / "nbs" / "tutorials").glob("[0-9]*.ipynb")))
    assert gallery.count("<figure>") == drawn + taught
    listed = (tmp_path / "source" / "tutorials.md").read_text()
    for name in (ROOT / "nbs" / "tutorials").glob("*.ipynb"):
        assert f"nbs/tutorials/{name.stem}" in listed


def test_every_figure_and_table_has_a_title_of_its_own():
    told = pages.told_by_report(ROOT)
    stems = [path.stem for path in (ROOT / "figures").glob("*.png")]
    titles = [told[stem]["title"] for stem in stems]
    assert len(set(titles)) == len(titles) > 30
    bare = [p for p in (ROOT / "figures").glob("*.md") if not p.read_text().startswith("# ")]
    assert [path.name for path in bare if path.stem not in told] == []


def test_a_figure_that_nothing_draws_is_named(tmp_path):
    for name in ("figures", "nbs/experiments", "nbs/results", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "figures" / "orphan.png").write_bytes(b"")
    (tmp_path / "source").mkdir()
    found = pages.write_gallery(tmp_path, tmp_path / "source", tmp_path / "extra")
    assert found == ["figures/orphan.png has no notebook: see experiments.toml, [[result]]"]


PAGE = '<h1 id="top">T</h1><a href="{link}">a</a><img src="{image}"><p>{text}</p>'


@pytest.mark.parametrize(
    ("link", "image", "text", "fault"),
    [
        ("b.html#there", "i.png", "plain", None),
        ("c.html", "i.png", "plain", "broken link c.html"),
        ("b.html#nowhere", "i.png", "plain", "broken link b.html#nowhere"),
        ("b.html", "j.png", "plain", "loads j.png, which is not there"),
        ("b.html", "https://example.org/i.png", "plain", "from another host"),
        ("b.html", "i.png", r"so \frac{1}{2}", "formula left as text"),
        ("b.html", "i.png", r"<code>\frac{1}{2}</code>", None),
    ],
)
def test_what_is_wrong_in_a_page_is_said(tmp_path, link, image, text, fault):
    (tmp_path / "a.html").write_text(PAGE.format(link=link, image=image, text=text))
    (tmp_path / "b.html").write_text('<p id="there">b</p>')
    (tmp_path / "i.png").write_bytes(b"")
    found = links.faults(tmp_path)
    if fault is None:
        assert found == []
    else:
        assert len(found) == 1
        assert fault in found[0]


@pytest.mark.full
@pytest.mark.skipif(not HAS_SPHINX, reason="Sphinx and its theme are not here: make docs has them")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, str(ROOT / "docs" / "build.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 faults" in done.stdout


def served_once(folder, handler, ask):
    "Serve `folder` to the client `ask(address)`, and wait for the thread that answers it."
    made = functools.partial(handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), made)
    server.daemon_threads = False  # joined at the end
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    ask(server.server_address)
    server.shutdown()
    server.server_close()
    thread.join()


def leaves_early(address):
    "Ask for a page of megabytes, and reset the connection after its first bytes."
    with socket.create_connection(address) as client:
        client.sendall(b"GET /large.html HTTP/1.0\r\n\r\n")
        client.recv(10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("handler", [http.server.SimpleHTTPRequestHandler, browse.Server])
def test_a_browser_that_leaves_early_is_no_fault_of_the_server(tmp_path, capfd, handler):
    (tmp_path / "large.html").write_bytes(b"x" * 20_000_000)
    served_once(tmp_path, handler, leaves_early)
    is_ours = handler is browse.Server
    assert ("Traceback" in capfd.readouterr().err) is not is_ours


def test_any_other_error_of_the_server_is_told(tmp_path, capfd):
    class Broken(browse.Server):
        def do_GET(self):
            raise ValueError("a fault of ours")

    served_once(tmp_path, Broken, leaves_early)
    assert "a fault of ours" in capfd.readouterr().err
