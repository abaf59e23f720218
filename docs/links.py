"""What is wrong in built pages: links to nowhere, pages of other hosts, formulas left as TeX."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    "Ids, links, loaded addresses and the text outside code and formulas."

    quiet: ClassVar = {"code", "pre", "script", "style", "math", "svg", "title"}
    empty: ClassVar = {
        "img",
        "link",
        "meta",
        "br",
        "hr",
        "input",
        "source",
        "path",
        "use",
        "col",
        "wbr",
    }

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.open: list[bool] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.update(value for value in (given.get("id"), given.get("name")) if value)
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        loaded = given.get("src") or (given.get("href") if tag == "link" else None)
        if loaded and given.get("rel") not in ("canonical", "prev", "next", "index", "search"):
            self.loads.append(loaded)
        if tag not in self.empty:
            math = "math" in (given.get("class") or "").split()
            self.open.append(tag in self.quiet or math or (bool(self.open) and self.open[-1]))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.empty and self.open:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not (self.open and self.open[-1]):
            self.words.append(data)


RAW_TEX = re.compile(r"\\(?:frac|sum|mathbb|lVert|le|ge|cdot|eta|theta|nabla|ell)\b|\$\$")


def faults(html: Path) -> list[str]:
    read = {path: Page(path.read_text()) for path in sorted(html.rglob("*.html"))}
    found = []
    for path, page in read.items():
        name = path.relative_to(html).as_posix()
        found += [f"{name}: {fault}" for fault in _of_page(path, page, read, html)]
    return found


def _of_page(path: Path, page: Page, read: dict[Path, Page], html: Path) -> list[str]:
    broken = [f"broken link {link}" for link in page.links if not _leads(link, path, read, html)]
    strange = [f"loads {load} from another host" for load in page.loads if _host(load)]
    lost = [
        f"loads {load}, which is not there"
        for load in page.loads
        if not _host(load) and not load.startswith("data:") and not _leads(load, path, read, html)
    ]
    raw = [
        f"formula left as text: {word.strip()[:80]}" for word in page.words if RAW_TEX.search(word)
    ]
    return broken + strange + lost + raw


def _host(address: str) -> bool:
    return bool(urlsplit(address).netloc)


def _leads(link: str, path: Path, read: dict[Path, Page], html: Path) -> bool:
    parts = urlsplit(link)
    if parts.scheme in ("http", "https", "mailto", "data", "javascript"):
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target = target / "index.html"
    if not target.exists():
        return False
    fragment = unquote(parts.fragment)
    return not fragment or target not in read or fragment in read[target].ids
