"""What the tests of runner and command share."""

import os
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
MANIFEST = """
[[experiment]]
id = "x"
notebook = "x.ipynb"
outputs = ["data/records/x.csv"]
smoke = {}
paper = { runs = 2 }
"""
# what `write_provenance` writes, without the seconds that importing the package takes
WRITE = """
import hashlib, json, os
from pathlib import Path

def write_provenance(name, parameters, outputs):
    files = {o: hashlib.sha256(Path(o).read_bytes()).hexdigest() for o in outputs}
    record = dict(parameters=parameters, outputs=files, settings={"all": "computed"})
    for folder in ("data/records", os.environ["IMPSAMP_RUN"] + "/provenance"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / (name + ".json")).write_text(json.dumps(record))
"""
BODY = f"""{WRITE}
Path("data/records/x.csv").write_text(f"{{runs}}")
write_provenance("x", dict(runs=runs), ["data/records/x.csv"])
"""


class Project:
    "A project of one experiment, outside of the real one."

    body = BODY  # an experiment that does as it is told

    def __init__(self, root):
        self.root = root
        for folder in ("nbs/experiments", "nbs/results", "data/records"):
            (root / folder).mkdir(parents=True)
        (root / "settings.ini").write_text("lib_name = impsamp\n")
        self.manifest(MANIFEST)

    def manifest(self, text):
        (self.root / "nbs/experiments/experiments.toml").write_text(text)

    def notebook(self, kind, body, parameters="runs = 1  # how many", name="x"):
        "Write the notebook `name` of this kind, its parameters tagged."
        nb = nbformat.v4.new_notebook()
        nb.cells = [
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(body),
        ]
        nbformat.write(nb, self.root / "nbs" / f"{kind}s" / f"{name}.ipynb")

    @property
    def record(self):
        return (self.root / "data/records/x.csv").read_text()


@pytest.fixture
def nothing(tmp_path):
    """The environment of a machine with nothing: no data, an empty home, every address closed.

    Downloads honour proxies, and these point at a closed port of this machine."""
    home = tmp_path / "home"
    home.mkdir()
    names = {"IMPSAMP_DATA", "IMPSAMP_OUTPUT", "IMPSAMP_RUN", "IMPSAMP_FORCE", "XDG_CACHE_HOME"}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    closed = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "all")}
    closed |= {name.upper(): value for name, value in closed.items()}
    return {**kept, **closed, "NO_PROXY": "", "HOME": str(home), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPSAMP_OUTPUT", str(tmp_path))
    monkeypatch.delenv("IMPSAMP_RUN", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return Project(tmp_path)
