"""Open every page of the site in Chromium, at two widths: `python docs/browse.py`.

Counts errors on the console, formulas that MathJax could not read, requests to other hosts, and
pages that scroll sideways. Status 3 where there is no Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "_docs" / "html"
WIDTHS = (360, 1280)
DRIVER = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script>
const pages = PAGES, widths = WIDTHS, found = [];
function settled(view) {
  const math = view.MathJax && view.MathJax.startup && view.MathJax.startup.promise;
  return Promise.race([Promise.resolve(math), new Promise(done => setTimeout(done, 20000))]);
}
const untold = math => !math.querySelector('mjx-container');
function look(frame, page, width) {
  return new Promise(done => {
    frame.onload = async () => {
      const view = frame.contentWindow, paper = view.document;
      await settled(view);
      found.push({page, width, wide: paper.documentElement.scrollWidth,
        errors: paper.querySelectorAll('mjx-merror, .MathJax_Error').length,
        raw: [...paper.querySelectorAll('.math')].filter(untold).length,
        formulas: paper.querySelectorAll('mjx-container').length,
        lost: [...paper.images].filter(i => i.complete && !i.naturalWidth).length,
        hosts: view.performance.getEntriesByType('resource').map(r => new URL(r.name).host)
          .filter(h => h && h !== location.host)});
      done();
    };
    frame.src = page;
  });
}
async function all() {
  for (const width of widths) {
    const frame = document.createElement('iframe');
    frame.style.cssText = `width:${width}px;height:900px;border:0`;
    document.body.append(frame);
    for (const page of pages) await look(frame, page, width);
    frame.remove();
  }
  await fetch('/found', {method: 'POST', body: JSON.stringify(found)});
}
addEventListener('load', all);
</script><body></body>"""


class Server(http.server.SimpleHTTPRequestHandler):
    "The site, the page that opens all others, and the place where it leaves what it found."

    driver: str
    found: list[dict]
    done: threading.Event

    def handle(self) -> None:
        "As always; but a browser that closes while it is answered is no fault of ours."
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().handle()

    def do_GET(self) -> None:
        if self.path != "/driver":
            return super().do_GET()
        body = self.driver.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.found.extend(json.loads(body))
        self.send_response(204)
        self.end_headers()
        self.done.set()

    def log_message(self, *args: object) -> None:
        pass


def look_at(html: Path, chromium: str, limit: float) -> tuple[list[dict], list[str]]:
    "What each page showed, and what the browser's console said."
    names = [path.relative_to(html).as_posix() for path in sorted(html.rglob("*.html"))]
    text = DRIVER.replace("PAGES", json.dumps(names)).replace("WIDTHS", json.dumps(WIDTHS))
    made = {"driver": text, "found": [], "done": threading.Event()}
    handler = functools.partial(type("Here", (Server,), made), directory=str(html))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        said = browse(
            chromium, f"http://127.0.0.1:{server.server_port}/driver", made["done"], limit
        )
    finally:
        server.shutdown()
    return made["found"], said


def browse(chromium: str, address: str, done: threading.Event, limit: float) -> list[str]:
    with tempfile.TemporaryDirectory() as profile, tempfile.TemporaryFile("w+") as log:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += [
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
        ]
        browser = subprocess.Popen([chromium, *options, address], stdout=log, stderr=log)
        arrived = done.wait(limit)
        browser.terminate()
        browser.wait(30)
        log.seek(0)
        said = [line.strip() for line in log if "CONSOLE" in line]
    return said if arrived else [*said, f"the browser was not done after {limit:.0f} s"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--html", type=Path, default=OUT)
    parser.add_argument("--limit", type=float, default=1200, help="seconds for all pages")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("no Chromium on this machine: pages were not opened")
        return 3
    found, said = look_at(arguments.html, chromium, arguments.limit)
    bad = [look for look in found if faults(look)]
    for look in bad:
        print(f"{look['page']} at {look['width']} px: {', '.join(faults(look))}")
    print("\n".join(said))
    formulas = sum(look["formulas"] for look in found if look["width"] == WIDTHS[0])
    print(f"{len(found)} looks, {formulas} formulas, {len(bad)} with faults")
    print(f"{len(said)} lines on the console")
    return int(bool(bad or said or not found))


def faults(look: dict) -> list[str]:
    wide = [f"{look['wide']} px wide"] if look["wide"] > look["width"] else []
    counted = {"errors": "formulas in error", "raw": "formulas left as TeX", "lost": "lost images"}
    told = [f"{look[key]} {words}" for key, words in counted.items() if look[key]]
    return wide + told + [f"asks {host}" for host in set(look["hosts"])]


if __name__ == "__main__":
    sys.exit(main())
