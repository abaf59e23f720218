"""A local server and an empty cache in place of the web and the user's folders."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from impsamp.data import fetch


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    "The folder of an empty cache; no IMPSAMP_DATA."
    folder = tmp_path / "cache"
    monkeypatch.delenv("IMPSAMP_DATA", raising=False)
    monkeypatch.setattr(fetch, "cache_dir", lambda: folder)
    return folder


@pytest.fixture
def server():
    """start(folder, fail_first=0, get=None) -> (address, state).

    Serves a folder on the loopback interface; `get(handler)` answers in the folder's place."""
    servers = []

    def start(folder, fail_first=0, get=None):
        state = {"requests": 0}

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                state["requests"] += 1
                if state["requests"] <= fail_first:
                    return self.send_error(503)
                return get(self) if get else super().do_GET()

            def log_message(self, *args):
                pass

        httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        servers.append(httpd)
        return f"http://127.0.0.1:{httpd.server_port}/", state

    yield start
    for httpd in servers:
        httpd.shutdown()
