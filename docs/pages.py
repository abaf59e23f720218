"""The pages that Sphinx reads: the repository's notebooks and texts, and some that list them."""

from __future__ import annotations

import base64
import json
import re
import shutil
import tomllib
from html import escape
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import impsamp

NEEDED = {
    "sphinx": "sphinx",
    "myst_nb": "myst-nb",
    "furo": "furo",
    "sphinx_copybutton": "sphinx-copybutton",
    "sphinx-mathjax-offline": "sphinx-mathjax-offline",
}
TEXTS = (
    "docs/results.md",
    "docs/speed.md",
    "docs/reproducing.md",
    "docs/submit.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "data/PROVENANCE.md",
)
UNREAD = ("__pycache__", "*.svg", "*.npz", "*.ipynb")
KEPT = ("figures", "data", "benchmarks", "examples", "tests", "impsamp")
FILES = ("Makefile", "pyproject.toml", "requirements.lock", "LICENSE", "CITATION.cff")
TITLES = {
    "errors": "Errors",
    "theory": "Theory",
    "data": "Data",
    "problems": "Problems",
    "gradnorms": "Gradient norms",
    "schemes": "Schemes",
    "samplers": "Samplers",
    "thinning": "Thinning",
    "optimizers": "Optimizers",
    "linear": "Linear models",
    "training": "Training",
    "assess": "Assessment",
    "integrations": "Integrations",
}


def missing_packages() -> list[str]:
    return [package for module, package in NEEDED.items() if find_spec(module) is None]


def write_source(root: Path, source: Path, extra: Path) -> list[str]:
    "Pages below `source`, files as they are below `extra`, anew; faults come back as sentences."
    for folder in (source, extra):
        shutil.rmtree(folder, ignore_errors=True)
    for name in KEPT:
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns(*UNREAD))
    for name in ("figures", "data/records", "data/timings"):
        shutil.copytree(root / name, extra / name, ignore=shutil.ignore_patterns("*.md"))
    for name in texts_of(root, "figures"):
        write_table(source / f"{name}.md", told_by_report(root))
    for name in (*TEXTS, *FILES):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, source / name)
    faults = []
    for path in notebooks(root):
        faults += write_notebook(root, path, source, extra)
    for path in sorted((root / "nbs/experiments").glob("*.*")):
        if path.suffix in (".toml", ".md", ".csv"):
            shutil.copy(path, source / path.relative_to(root))
    faults += write_gallery(root, source, extra)
    write_tutorials(root, source)
    write_reference(source)
    write_contents(root, source)
    return faults


def notebooks(root: Path) -> list[Path]:
    paths = sorted((root / "nbs").rglob("*.ipynb"))
    return [path for path in paths if ".ipynb_checkpoints" not in path.parts]


# --- notebooks ---------------------------------------------------------------------------------


def write_notebook(root: Path, path: Path, source: Path, extra: Path) -> list[str]:
    book = json.loads(path.read_text())
    name = path.relative_to(root)
    faults = [] if name.parts[1] == "experiments" else lost_outputs(name, book["cells"])
    cells = [cell for cell in map(shown_cell, book["cells"]) if cell is not None]
    if name.parts[1] == "results":
        fold_code(cells)
    add_download(cells, name)
    if path.name == "index.ipynb" and name.parent != Path("nbs"):
        cells.append(text_cell(contents_of(path.parent)))
    book["cells"] = cells
    book["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    target = source / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(book))
    kept = extra / "notebooks" / name.relative_to("nbs")
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, kept)
    return faults


def lost_outputs(name: Path, cells: list[dict]) -> list[str]:
    "Results and tutorials show their figures: that is what they are read for."
    if name.parts[1] == "results":
        shown = [output for cell in cells for output in cell.get("outputs", [])]
    elif is_tutorial(name):
        shown = pictures_of(cells)
    else:
        return []
    return [] if shown else [f"{name} was committed without its outputs: make run NB={name}"]


def is_tutorial(name: Path) -> bool:
    "The numbered notebooks of nbs/tutorials, which are read with pictures."
    return name.parts[1] == "tutorials" and name.stem[:1].isdigit()


def pictures_of(cells: list[dict]) -> list[tuple[str, bytes]]:
    "(the heading that it stands under, PNG) of every picture that a notebook was committed with."
    heading = ""
    found = []
    for cell in cells:
        if cell["cell_type"] == "markdown":
            heads = re.findall(r"^#+ +(.*)$", "".join(cell["source"]), re.M)
            heading = heads[-1] if heads else heading
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png is not None:
                found.append((heading, base64.b64decode("".join(png))))
    return found


def shown_cell(cell: dict) -> dict | None:
    "The cell without the directives of nbdev; None for one that only they need."
    text = "".join(cell["source"])
    directives = re.findall(r"^#\| *(.*)$", text, re.M)
    if any(line.startswith(("hide", "default_exp")) for line in directives):
        return None
    rest = re.sub(r"^#\|.*\n?", "", text, flags=re.M).strip("\n")
    if cell["cell_type"] == "code" and not rest:
        return None
    shown = {**cell, "source": site_links(rest) if cell["cell_type"] == "markdown" else rest}
    if cell["cell_type"] == "code":
        shown["outputs"] = [linked(output) for output in cell["outputs"] if wanted(output)]
    return shown


def linked(output: dict) -> dict:
    "Markdown that a cell printed: Sphinx leaves its links as they are, so they name the pages."
    data = output.get("data", {})
    if "text/markdown" not in data:
        return output
    text = "".join(data["text/markdown"])
    paged = re.sub(r"(\]\([^():\s]+)\.(?:ipynb|md)(?=[)#])", r"\1.html", text)
    return {**output, "data": {**data, "text/markdown": paged}}


def site_links(text: str) -> str:
    "Links name a notebook's heading as Jupyter does; the site names it as GitHub does a page's."
    return re.sub(r"(\.ipynb#)([^)\s]+)", lambda link: link[1] + slug(unquote(link[2])), text)


def slug(heading: str) -> str:
    "`Lemma 1: it holds` is lemma-1-it-holds."
    return re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))


def fold_code(cells: list[dict]) -> None:
    "A referee reads figures and verdicts first; the code that draws them opens at a click."
    for cell in cells:
        if cell["cell_type"] == "code":
            cell["metadata"] = {**cell["metadata"], "tags": ["hide-input"]}


def wanted(output: dict) -> bool:
    return output["output_type"] != "stream" or output.get("name") != "stderr"


def add_download(cells: list[dict], name: Path) -> None:
    up = "../" * (len(name.parts) - 1)
    address = f"{up}notebooks/{name.relative_to('nbs').as_posix()}"
    link = f'<p class="notebook-link"><a href="{address}" download>Open as notebook</a></p>'
    first = next(i for i, cell in enumerate(cells) if cell["cell_type"] == "markdown")
    cells.insert(first + 1, text_cell(link))


def text_cell(text: str) -> dict:
    return {
        "cell_type": "markdown",
        "id": f"site{abs(hash(text)) % 10**8}",
        "metadata": {},
        "source": text,
    }


def contents_of(folder: Path) -> str:
    names = [path.stem for path in sorted(folder.glob("*.ipynb")) if path.name != "index.ipynb"]
    inner = [
        f"{child.name}/index"
        for child in sorted(folder.iterdir())
        if (child / "index.ipynb").exists()
    ]
    return toctree("", [*names, *inner])


def toctree(caption: str, entries: list[str], *, hidden: bool = True) -> str:
    options = [":hidden:"] if hidden else []
    options += [f":caption: {caption}"] if caption else []
    return "\n".join(["```{toctree}", *options, "", *entries, "```"])


# --- gallery -----------------------------------------------------------------------------------


def write_gallery(root: Path, source: Path, extra: Path) -> list[str]:
    "Every picture below figures/ and of the tutorials, with notebook, records, what is claimed."
    manifest = tomllib.loads((root / "nbs/experiments/experiments.toml").read_text())
    makers = {Path(file).stem: entry for entry in manifest["result"] for file in entry["outputs"]}
    told = told_by_report(root)
    faults, cards = [], []
    for picture in sorted((root / "figures").glob("*.png")):
        maker = makers.get(picture.stem)
        page = f"nbs/results/{maker['notebook']}" if maker else benchmark_of(root, picture.stem)
        if page is None:
            faults.append(
                f"figures/{picture.name} has no notebook: see experiments.toml, [[result]]"
            )
            continue
        records = records_of(root / page, manifest["experiment"])
        records = [file for file in records if (root / file).exists()]  # of what has been run
        cards.append(card(f"figures/{picture.name}", page, records, told.get(picture.stem)))
    text = ["# Gallery", "", "Every figure, with the page that explains it and its records.", ""]
    cards += tutorial_cards(root, extra)
    text += ['<div class="gallery">', *cards, "</div>", ""]
    (source / "gallery.md").write_text("\n".join(text))
    return faults


def tutorial_cards(root: Path, extra: Path) -> list[str]:
    "The pictures of the tutorials, out of their notebooks into files below `extra`."
    cards = []
    for page in sorted((root / "nbs/tutorials").glob("[0-9]*.ipynb")):
        pictures = pictures_of(json.loads(page.read_text())["cells"])
        for k, (heading, png) in enumerate(pictures, 1):
            file = f"figures/tutorials/{page.stem}_{k}.png"
            (extra / file).parent.mkdir(parents=True, exist_ok=True)
            (extra / file).write_bytes(png)
            title = {"title": heading, "says": ""}
            cards.append(card(file, f"nbs/tutorials/{page.name}", [], title))
    return cards


def write_tutorials(root: Path, source: Path) -> None:
    "A page of all tutorials: the first picture of each, its title and what it promises."
    cards = []
    for page in sorted((root / "nbs/tutorials").glob("[0-9]*.ipynb")):
        first = json.loads(page.read_text())["cells"][0]
        title, promise = title_and_promise("".join(first["source"]))
        item = {"title": title, "says": promise}
        picture = f"figures/tutorials/{page.stem}_1.png"
        cards.append(card(picture, f"nbs/tutorials/{page.name}", [], item))
    words = (
        "Each on real data, with a picture for each idea, and with an end that says where it loses."
    )
    practice = (
        "Around a loop of your own: [training practice](nbs/tutorials/training_practice.ipynb)."
    )
    text = ["# Tutorials", "", words, "", '<div class="gallery">', *cards, "</div>", "", practice]
    trees = toctree("", pages_of(root, "tutorials"))
    (source / "tutorials.md").write_text("\n".join([*text, "", trees, ""]))


def title_and_promise(text: str) -> tuple[str, str]:
    "Of a notebook's first cell, `# title` and `> promise`; an empty promise where it has none."
    title = re.search(r"^# +(.+)$", text, re.M)
    promise = re.search(r"^> +(.+)$", text, re.M)
    return (title[1] if title else "", promise[1] if promise else "")


def benchmark_of(root: Path, stem: str) -> str | None:
    "The benchmark whose script names the picture."
    for script in sorted((root / "benchmarks").glob("[a-z]*.py")):
        if stem in script.read_text() and script.with_suffix(".md").exists():
            return f"benchmarks/{script.stem}.md"
    return None


def records_of(page: Path, experiments: list[dict]) -> list[str]:
    "The records that a page reads, by their names in its text."
    text = page.read_text()
    files = [file for entry in experiments for file in entry["outputs"]]
    return [file for file in files if f"{Path(file).stem}" in text]


def told_by_report(root: Path) -> dict[str, dict]:
    chapters = tomllib.loads((root / "nbs/experiments/report.toml").read_text())["chapter"]
    items = [item for chapter in chapters for item in chapter.get("item", [])]
    told = {Path(file).stem: item for item in items for file in item["files"]}
    titles = tomllib.loads((root / "docs/titles.toml").read_text())
    own = {stem: {"says": "", **told.get(stem, {}), "title": t} for stem, t in titles.items()}
    return told | own


def card(name: str, page: str, records: list[str], item: dict | None) -> str:
    address = re.sub(r"\.(ipynb|md)$", ".html", page)
    title = escape(item["title"] if item else Path(name).stem.replace("_", " "))
    says = escape(f"{item['says']} ") if item and item["says"] else ""
    linked = ", ".join(f'<a href="{file}">{Path(file).name}</a>' for file in records)
    return (
        f'<figure><a href="{address}"><img src="{name}" alt="{title}" loading="lazy"></a>'
        f'<figcaption><a href="{address}">{title}</a>. {says}{linked}</figcaption></figure>'
    )


# --- reference ---------------------------------------------------------------------------------


def write_reference(source: Path) -> None:
    folder = source / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    modules = impsamp._PUBLIC
    for module, names in modules.items():
        (folder / f"{module}.md").write_text(reference_page(module, names.split()))
    listed = toctree("", list(modules), hidden=False)
    (folder / "index.md").write_text(f"# Reference\n\nThe public names, by package.\n\n{listed}\n")


def reference_page(module: str, names: list[str]) -> str:
    title = TITLES.get(module, module)
    blocks = [f"# {title}\n\n`impsamp.{module}`, each name also from `impsamp` itself.\n"]
    blocks += [directive(name) for name in names]
    return "\n".join(blocks)


def directive(name: str) -> str:
    thing = getattr(impsamp, name)
    kind = (
        "autoclass"
        if isinstance(thing, type)
        else "autofunction"
        if callable(thing)
        else "autodata"
    )
    home = f"impsamp.{impsamp._HOME[name]}.{name}"
    return f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: {home}\n```\n"


# --- texts -------------------------------------------------------------------------------------


def write_table(path: Path, told: dict[str, dict]) -> None:
    "A page of figures/ that is a bare table gets the title that the report gives it."
    text = site_links(path.read_text())
    if not text.startswith("# "):
        item = told.get(path.stem)
        title = item["title"] if item else path.stem.replace("_", " ").capitalize()
        text = f"# {title}\n\n{text}"
    path.write_text(text)


# --- contents ----------------------------------------------------------------------------------


def write_contents(root: Path, source: Path) -> None:
    front = (root / "docs/index.md").read_text()
    library = sorted(
        path.name for path in (root / "nbs").iterdir() if (path / "index.ipynb").exists()
    )
    modules = [path.stem for path in sorted((root / "nbs").glob("[0-9]*.ipynb"))]
    read = sorted([f"nbs/{name}/index" for name in library] + [f"nbs/{name}" for name in modules])
    parts = {
        "Start": ["tutorials"],
        "Library, read along": ["nbs/index", "nbs/departures", *read],
        "Results": ["gallery", *pages_of(root, "results"), *texts_of(root, "figures")],
        "Experiments": [*pages_of(root, "experiments"), *texts_of(root, "nbs/experiments")],
        "Benchmarks": texts_of(root, "benchmarks"),
        "Reference": ["reference/index"],
        "Project": [name.removesuffix(".md") for name in TEXTS],
    }
    trees = "\n\n".join(toctree(caption, entries) for caption, entries in parts.items())
    (source / "index.md").write_text(f"{front}\n\n{trees}\n")


def pages_of(root: Path, folder: str) -> list[str]:
    return [f"nbs/{folder}/{path.stem}" for path in sorted((root / "nbs" / folder).glob("*.ipynb"))]


def texts_of(root: Path, folder: str) -> list[str]:
    return [f"{folder}/{path.stem}" for path in sorted((root / folder).glob("*.md"))]
