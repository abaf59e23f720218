"""Build the site: `python docs/build.py` writes _docs/html, from the repository alone."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import links
import pages

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "_docs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="folder that is written (_docs)")
    parser.add_argument("--fresh", action="store_true", help="read every page again")
    arguments = parser.parse_args()
    missing = pages.missing_packages()
    if missing:
        print(f"the site needs {', '.join(missing)}: pip install -r docs/requirements.lock")
        return 2
    begin = time.perf_counter()
    source, extra, html = (arguments.out / name for name in ("source", "extra", "html"))
    faults = pages.write_source(ROOT, source, extra)
    if faults:
        print("\n".join(faults))
        return 1
    if arguments.fresh:
        shutil.rmtree(html, ignore_errors=True)
        shutil.rmtree(arguments.out / "doctrees", ignore_errors=True)
    status = sphinx(source, html, arguments.out / "doctrees")
    faults = links.faults(html)
    print("\n".join(faults[:50]))
    built = len(list(html.rglob("*.html")))
    seconds = time.perf_counter() - begin
    print(f"{built} pages in {seconds:.0f} s, {len(faults)} faults: {html / 'index.html'}")
    return int(bool(status or faults))


def sphinx(source: Path, html: Path, doctrees: Path) -> int:
    "Every warning is an error, all of them are shown."
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going"]
    files = f"html_extra_path={source.parent / 'extra'}"
    places = ["-c", str(ROOT / "docs"), "-d", str(doctrees), "-D", files, str(source), str(html)]
    return subprocess.run([*command, *places]).returncode


if __name__ == "__main__":
    sys.exit(main())
