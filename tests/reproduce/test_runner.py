"""The runner: what it runs, what it refuses, and that everything runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from impsamp.errors import DataError, InvalidArgument, MissingExtra, RecordError, UnknownName
from impsamp.reproduce import inputs, runner
from impsamp.reproduce.manifest import entry_parameters
from impsamp.reproduce.notebook import Execution
from impsamp.reproduce.provenance import digest
from tests.reproduce.conftest import MANIFEST, WRITE
from tests.reproduce.kill_reproduce import kill_tree
from tests.reproduce.opened import opened, watch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest():
    "The manifest of this project."
    return runner.load_manifest(ROOT / "nbs/experiments/experiments.toml")


# --- one project of one experiment


def became(report):
    "{name: state} of a report."
    return {outcome.job.name: outcome.state for outcome in report.outcomes}


def failure(report):
    "Why the one job of a report failed."
    (outcome,) = report.outcomes
    assert outcome.state == "failed"
    return outcome.why


def test_parameters_reach_the_record_and_the_files_are_listed(project, capfd):
    project.notebook("experiment", project.body)
    report = runner.run("paper")
    assert report.files == ["data/records/x.csv", "data/records/x.json"]
    assert became(report) == {"x": "computed"}
    assert project.record == "2"
    assert "new        data/records/x.csv" in capfd.readouterr().out
    (project.root / "data/records/x.csv").write_text("older")
    assert became(runner.run("paper")) == {"x": "computed"}
    told = capfd.readouterr().out
    assert "changed    data/records/x.csv" in told
    assert "unchanged  data/records/x.json" in told
    assert (project.root / "_runs/paper/x.ipynb").is_file()
    assert not list((project.root / "nbs").rglob("_*"))


def test_an_undeclared_parameter_is_a_failure(project):
    project.notebook("experiment", project.body)
    project.manifest(
        '[[experiment]]\nid = "x"\nnotebook = "x.ipynb"\noutputs = []\npaper = { rusn = 2 }\n'
    )
    assert "declares no parameter rusn; it has runs" in failure(runner.run("paper"))


def test_a_declared_output_that_is_missing_is_a_failure(project):
    project.notebook("experiment", "pass")
    assert "not written: data/records/x.csv" in failure(runner.run("paper"))


def test_provenance_with_other_parameters_is_a_failure(project):
    project.notebook("experiment", project.body.replace("dict(runs=runs)", "dict(runs=7)"))
    assert "differs from what was asked" in failure(runner.run("paper"))


def test_what_an_earlier_run_finished_is_not_executed_again(project, capfd, monkeypatch):
    counting = project.body + "\nwith open('count', 'a') as f: f.write('x')"
    project.notebook("experiment", counting)
    states = [became(runner.run("paper"))["x"] for _ in range(2)]
    assert states == ["computed", "finished"]
    assert "finished by an earlier run, nothing has changed" in capfd.readouterr().out
    project.manifest(MANIFEST.replace("runs = 2", "runs = 3"))
    assert became(runner.run("paper"))["x"] == "computed"
    project.notebook("experiment", counting + "\npass")
    assert became(runner.run("paper"))["x"] == "computed"
    monkeypatch.setenv("IMPSAMP_FORCE", "1")
    assert became(runner.run("paper"))["x"] == "computed"
    monkeypatch.delenv("IMPSAMP_FORCE")
    monkeypatch.setattr(runner, "environment", lambda: {"torch": "9.9"})
    assert became(runner.run("paper"))["x"] == "computed"
    assert (project.root / "count").read_text() == "xxxxx"


FILES = {  # all that the result of `drawn` could read
    "its record": "data/records/other.csv",
    "timings": "data/timings/other.csv",
    "a protocol": "nbs/experiments/protocol.md",
    "what its entry names": "figures/other.md",
}


def at_once(notebook, parameters, copy, limit=None, server=None):
    "Execute the cells of a notebook here, in the place of `start`: no kernel, no second."
    declared, body = json.loads(notebook.read_text())["cells"]
    names, told = {}, {}
    try:
        exec("".join(declared["source"]), names)
        names |= parameters
        exec("".join(body["source"]), names)
    except ValueError:
        told = {"error": "ValueError", "message": "no"}
    answer, theirs = os.pipe()
    os.write(theirs, json.dumps(told).encode())
    os.close(theirs)
    return Execution(notebook, copy, subprocess.Popen(["true"]), answer)


@pytest.fixture
def drawn(project, monkeypatch):
    "A project of one result, drawn before; returns what becomes of it in another run."
    monkeypatch.setattr(runner, "start", at_once)
    project.manifest(
        '[[result]]\nid = "x"\nnotebook = "x.ipynb"\n'
        'outputs = ["figures/x.svg", "figures/x.md"]\nreads = ["figures/other.*"]\n'
    )
    body = "for end in ('svg', 'md'): open(f'figures/x.{end}', 'w').write(end)\n"
    project.body = body + "open('count', 'a').write('x')"
    project.notebook("result", project.body)
    for file in FILES.values():
        (project.root / file).parent.mkdir(parents=True, exist_ok=True)
        (project.root / file).write_text("1")
    monkeypatch.delenv("IMPSAMP_FORCE", raising=False)
    assert became(runner.run("paper")) == {"x": "computed"}
    return lambda: became(runner.run("paper"))["x"]


def test_a_page_that_nothing_has_changed_for_is_not_drawn_again(project, drawn, capfd):
    assert [drawn(), drawn()] == ["finished", "finished"]
    assert (project.root / "count").read_text() == "x"
    assert "x: finished by an earlier run, nothing has changed" in capfd.readouterr().out
    summary = json.loads((project.root / "_runs/paper/summary.json").read_text())
    assert summary["became"][0]["state"] == "finished"
    assert (project.root / "_runs/paper/report.html").is_file()


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_a_page_is_drawn_again_when_a_file_that_it_could_read_changes(project, drawn, file):
    path = project.root / file
    for change in (lambda: path.write_text("2"), path.unlink, lambda: path.write_text("1")):
        change()
        assert drawn() == "computed"
        assert drawn() == "finished"


@pytest.mark.parametrize("ending", ["svg", "md"])
def test_a_page_whose_picture_or_table_was_touched_is_drawn_again(project, drawn, ending):
    path = project.root / f"figures/x.{ending}"
    for change in (lambda: path.write_text("altered"), path.unlink):
        change()
        assert drawn() == "computed"
        assert path.read_text() == ending
    assert drawn() == "finished"


def test_a_page_is_drawn_again_by_other_code_another_library_or_force(project, drawn, monkeypatch):
    project.notebook("result", project.body + "\npass")
    assert [drawn(), drawn()] == ["computed", "finished"]
    monkeypatch.setattr(runner, "notebook_version", lambda path: "a module has changed")
    assert [drawn(), drawn()] == ["computed", "finished"]
    monkeypatch.setattr(runner, "environment", lambda: {"numpy": "9.9"})
    assert [drawn(), drawn()] == ["computed", "finished"]
    monkeypatch.setattr(inputs, "version", lambda name: f"{name} 9.9")
    assert [drawn(), drawn()] == ["computed", "finished"]
    monkeypatch.setenv("IMPSAMP_FORCE", "1")
    assert drawn() == "computed"


def test_a_page_that_was_drawn_elsewhere_or_failed_is_not_finished(project, drawn):
    "The committed figures of a fresh clone are no proof that this machine drew them."
    note = project.root / "_runs/paper/finished/x.json"
    note.unlink()
    assert drawn() == "computed"
    project.notebook("result", "raise ValueError")
    assert [drawn(), drawn()] == ["failed", "failed"]
    project.notebook("result", project.body)
    assert drawn() == "finished"  # its files are still those that this code wrote


def test_what_changes_while_a_page_is_drawn_draws_it_again(project, drawn):
    "The note tells what held when the notebook began."
    meanwhile = "import os\nif not os.path.exists('once'):\n"
    meanwhile += "    open('once', 'w'); open('data/records/other.csv', 'w').write('2')\n"
    project.notebook("result", meanwhile + project.body)
    assert [drawn(), drawn(), drawn()] == ["computed", "computed", "finished"]


def test_an_experiment_is_computed_again_when_its_design_changes(project, monkeypatch):
    monkeypatch.setattr(runner, "start", at_once)
    project.manifest(MANIFEST + 'reads = ["nbs/experiments/design.toml"]\n')
    project.notebook("experiment", project.body)
    design = project.root / "nbs/experiments/design.toml"
    for text in ("a = 1", "a = 2"):
        design.write_text(text)
        assert became(runner.run("paper"))["x"] == "computed"
        assert became(runner.run("paper"))["x"] == "finished"


def test_what_was_kept_or_failed_is_tried_again(project):
    project.notebook("experiment", project.body)
    runner.run("paper")
    note = project.root / "_runs/paper/finished/x.json"
    assert note.is_file()
    project.notebook("experiment", "raise ValueError")
    assert became(runner.run("paper")) == {"x": "failed"}
    assert became(runner.run("paper")) == {"x": "failed"}
    note.write_text("damaged")
    project.notebook("experiment", project.body)
    assert became(runner.run("paper")) == {"x": "computed"}


def test_provenance_of_an_earlier_run_does_not_count(project):
    project.notebook("experiment", project.body)
    runner.run("paper")
    project.notebook("experiment", "pass")
    assert "wrote no provenance" in failure(runner.run("paper"))


def test_a_failing_notebook_is_told_with_the_cells_own_error(project):
    project.notebook("experiment", "raise ValueError('no such thing')")
    first, second = failure(runner.run("paper")).splitlines()
    assert first == "x.ipynb failed: ValueError: no such thing"
    assert str(project.root / "_runs/paper/x.ipynb") in second


def test_unknown_names():
    with pytest.raises(UnknownName, match=r"profile 'papre'.*did you mean 'paper'"):
        runner.run("papre")
    with pytest.raises(UnknownName, match="experiment or result"):
        runner.run("smoke", ["nothing"])


def test_without_papermill_nothing_is_started(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)
    project.notebook("experiment", project.body)
    with pytest.raises(MissingExtra, match=r"papermill .*impsamp\[reproduce\]"):
        runner.run("paper")
    assert not (project.root / "_runs").exists()


# --- what was not computed


PARTIAL = """
import os
from pathlib import Path
from impsamp.errors import ChecksumError, DataUnavailable
from impsamp.reproduce.provenance import Ledger, write_provenance
ledger = Ledger()
for name in ("here", "elsewhere"):
    with ledger.setting(name):
        if name == "elsewhere":
            raise {error}("'elsewhere' cannot be had: put it there")
Path("data/records/x.csv").write_text("1")
write_provenance("x", dict(runs=runs), ["data/records/x.csv"], ledger)
"""


@pytest.fixture
def committed(project):
    "The record of a whole run, which others may keep; returns the bytes of both files."
    project.notebook("experiment", project.body)
    runner.run("paper")
    return lambda: [
        (project.root / "data/records" / f"x.{e}").read_bytes() for e in ("csv", "json")
    ]


def test_a_setting_without_its_data_is_kept_and_everything_says_so(project, committed, capfd):
    before = committed()
    project.notebook("experiment", PARTIAL.format(error="DataUnavailable"))
    report = runner.run("paper")
    sentence = "kept from committed records, because 'elsewhere' cannot be had"
    assert became(report) == {"x": "partly"}
    assert (report.computed, report.kept) == (1, 1)
    assert report.files == ["data/records/x.csv"]
    assert f"elsewhere: {sentence}" in str(report)
    assert "1 computed, 1 kept from committed records" in str(report)
    assert committed()[1] == before[1]
    own = json.loads((project.root / "_runs/paper/provenance/x.json").read_text())
    assert own["settings"] == {"here": "computed", "elsewhere": sentence}
    summary = json.loads((project.root / "_runs/paper/summary.json").read_text())
    assert summary["became"][0]["settings"] == own["settings"]


@pytest.mark.parametrize("error", ["ChecksumError", "OSError"])
def test_a_wrong_file_is_never_passed_over(project, committed, error):
    before = committed()
    project.notebook("experiment", PARTIAL.format(error=error))
    assert f"{error}: 'elsewhere' cannot be had" in failure(runner.run("paper"))
    assert committed() == before


def test_an_experiment_without_its_data_is_kept_as_a_whole(project, committed):
    before = committed()
    body = "from impsamp.errors import DataUnavailable\nraise DataUnavailable('MNIST: nowhere')"
    project.notebook("experiment", body)
    report = runner.run("paper")
    assert became(report) == {"x": "kept"}
    assert (report.computed, report.kept, report.files) == (0, 1, [])
    assert "all: kept from committed records, because MNIST" in str(report)
    assert committed() == before


def test_nothing_to_keep_is_a_failure(project):
    body = "from impsamp.errors import DataUnavailable\nraise DataUnavailable('MNIST: nowhere')"
    project.notebook("experiment", body)
    assert "there are no committed data/records/x.csv" in failure(runner.run("paper"))


def test_a_data_folder_that_is_none_is_refused_before_anything_runs(project, monkeypatch):
    monkeypatch.setenv("IMPSAMP_DATA", str(project.root / "nowhere"))
    project.notebook("experiment", project.body)
    with pytest.raises(DataError, match="nowhere, which is not a folder"):
        runner.run("paper")
    assert not (project.root / "_runs").exists()


# --- several notebooks


ENTRY = """
[[{kind}]]
id = "{name}"
notebook = "{name}.ipynb"
outputs = []
"""
STAMP = """
import time
began = time.time()
{work}
write_provenance("{name}", dict(), [])
Path("{name}.times").write_text(f"{{began}} {{time.time()}}")
"""


def experiment(name, shared):
    entry = ENTRY.format(kind="experiment", name=name)
    return f"{entry}shared = {'true' if shared else 'false'}\npaper = {{}}\n"


class Several:
    "A project of several notebooks that write down when they ran."

    def __init__(self, project):
        self.project = project
        self.entries = []

    def add(self, kind, name, work="time.sleep(0.3)", shared=True):
        entry = experiment(name, shared) if kind == "experiment" else None
        self.entries.append(entry or ENTRY.format(kind=kind, name=name))
        self.project.manifest("".join(self.entries))
        self.project.notebook(kind, WRITE + STAMP.format(work=work, name=name), "pass", name)

    def met(self, a, b):
        "Whether two notebooks ran at the same time."
        files = [self.project.root / f"{name}.times" for name in (a, b)]
        (begin_a, end_a), (begin_b, end_b) = (map(float, f.read_text().split()) for f in files)
        return begin_a < end_b and begin_b < end_a


@pytest.fixture
def several(project):
    return Several(project)


def test_what_needs_the_machine_runs_alone_and_the_rest_side_by_side(several):
    """With two jobs: the unshared experiment has no neighbour, the shared ones do.

    Results come after every experiment."""
    several.add("experiment", "a", "time.sleep(4)")
    several.add("experiment", "lone", shared=False)
    several.add("experiment", "b", "time.sleep(4)")
    several.add("result", "c")
    report = runner.run("paper", jobs=2)
    assert set(became(report).values()) == {"computed"}
    assert several.met("a", "b")
    assert not any(several.met(x, "lone") for x in "abc")
    assert not any(several.met(x, "c") for x in "ab")


def test_one_failure_stops_nobody_else(several):
    several.add("experiment", "a", "raise ValueError('no such thing')")
    several.add("experiment", "b")
    several.add("result", "c", "import os; os._exit(1)")
    several.add("result", "d")
    report = runner.run("paper", jobs=2)
    assert became(report) == {"a": "failed", "b": "computed", "c": "failed", "d": "computed"}
    table = str(report)
    assert "a.ipynb failed: ValueError: no such thing" in table
    assert "c.ipynb failed: DeadKernelError" in table
    assert "2 computed, 0 finished, 0 partly, 0 kept, 2 failed, 0 not started" in table


def test_a_notebook_that_takes_too_long_is_stopped(several):
    several.add("result", "a", "time.sleep(60)")
    report = runner.run("paper", timeout=2)
    assert became(report) == {"a": "failed"}
    assert "a.ipynb was stopped: its time limit of 2 s is over" in str(report)
    assert report.outcomes[0].seconds < 40


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_time_limit_is_a_number_above_zero(several, limit):
    several.add("experiment", "a")
    with pytest.raises(InvalidArgument, match="timeout"):
        runner.run("paper", timeout=limit)


def test_only_what_is_named_runs(several):
    for name in "ab":
        several.add("experiment", name, "")
    assert became(runner.run("paper", ["b"])) == {"b": "computed"}
    assert [job.name for job in runner.plan("paper")] == ["a", "b"]
    assert [job.name for job in runner.plan("paper", ["a"])] == ["a"]


# --- interrupted and locked out


COMMAND = [sys.executable, "-m", "impsamp.reproduce", "run", "--jobs", "2"]


@pytest.fixture
def sleeping(several):
    "A command that runs two notebooks side by side, both asleep; and their pids."
    work = "import os; Path('{0}.pid').write_text(str(os.getpid())); time.sleep(60)"
    for name in "ab":
        several.add("experiment", name, work.format(name))
    several.add("result", "c")
    root = several.project.root
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(COMMAND, cwd=root, start_new_session=True, **pipes)
    files = [root / f"{name}.pid" for name in "ab"]
    deadline = time.monotonic() + 60
    while not all(file.is_file() and file.read_text() for file in files):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    yield process, [int(file.read_text()) for file in files]
    if process.poll() is None:
        kill_tree(process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_answered_at_once_and_leaves_nothing_behind(sleeping, number):
    process, kernels = sleeping
    alive = [psutil.Process(pid) for pid in kernels]
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 30
    assert process.returncode == 130
    assert "0 computed, 0 finished, 0 partly, 0 kept, 0 failed, 3 not started" in out
    assert "interrupted; finished runs are kept" in err
    assert "Traceback" not in err
    # they were told to end before the runner ended; the system may take a moment to do it
    _, left = psutil.wait_procs(alive, timeout=20)
    assert left == []


def test_kernels_die_with_a_runner_that_is_killed(sleeping):
    process, kernels = sleeping
    alive = [psutil.Process(pid) for pid in kernels]
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(alive, timeout=30)
    assert left == []


def test_a_second_run_is_told_the_pid_of_the_first(sleeping, several):
    process, _ = sleeping
    with pytest.raises(RecordError, match=f"process {process.pid} is running in .*_runs"):
        runner.run("paper")


def test_a_folder_that_cannot_be_written_is_a_sentence(project):
    project.notebook("experiment", project.body)
    (project.root / "_runs").write_text("a file where the folder should be")
    with pytest.raises(RecordError, match=r"cannot write below .*_runs"):
        runner.run("paper")


def test_a_smoke_run_has_an_output_root_of_its_own(project):
    body = 'print("root is", os.environ["IMPSAMP_OUTPUT"])\n'
    body += 'os.chdir(os.environ["IMPSAMP_OUTPUT"])\n' + project.body
    body = 'import os; os.makedirs(os.environ["IMPSAMP_OUTPUT"] + "/data/records")\n' + body
    project.notebook("experiment", body)
    report = runner.run("smoke")
    assert became(report) == {"x": "computed"}
    assert (project.root / "_runs/smoke/output/data/records/x.csv").read_text() == "1"
    assert not (project.root / "data/records/x.csv").exists()
    assert os.environ["IMPSAMP_OUTPUT"] == str(project.root)
    assert "IMPSAMP_RUN" not in os.environ


# --- this project


def test_what_shares_the_machine_has_no_workers_and_judges_no_clock(manifest):
    for entry in manifest["experiment"]:
        if not entry.get("shared"):
            continue
        text = (ROOT / "nbs/experiments" / entry["notebook"]).read_text()
        assert "IMPSAMP_JOBS" not in text, entry["id"]
        assert text.count("run_all(") == text.count("jobs=1"), entry["id"]
        assert "data/timings" not in text + str(entry["outputs"]), entry["id"]


def git_status():
    command = ["git", "status", "--porcelain"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def undeclared(entry, paths):
    "What a result read or wrote that neither its entry nor the rule for all results names."
    output = ROOT / "_runs/smoke/output"
    patterns = [*inputs.READS, *entry.get("reads", []), *entry["outputs"]]
    code = [f"nbs/results/{entry['notebook']}", "impsamp/**/*", "settings.ini"]
    readable = {p for root in (ROOT, output) for x in patterns for p in root.glob(x)}
    readable |= {p for x in code for p in ROOT.glob(x)}
    written = {p for p in paths["w"] if p.is_relative_to(output) and p.suffix != ".tmp"}
    elsewhere = {p for p in paths["r"] if not p.is_relative_to(sys.prefix)}
    wrong = (written - {output / o for o in entry["outputs"]}) | (elsewhere - readable)
    return sorted(str(p.relative_to(ROOT)) for p in wrong if p.suffix not in (".pyc", ".tmp"))


def check_opened(results, folder):
    "Every result was seen; none read or wrote what the runner does not know of."
    seen = set()
    for paths in opened(folder):
        for entry in results:
            if paths["w"] & {ROOT / "_runs/smoke/output" / o for o in entry["outputs"]}:
                seen.add(entry["id"])
                assert undeclared(entry, paths) == [], entry["id"]
    assert seen == {entry["id"] for entry in results}


def test_smoke_runs_everything_on_a_machine_with_nothing(manifest, nothing, tmp_path):
    """Every experiment and every result, by papermill, with the notebooks' own defaults.

    No data, no network, an empty home. Nothing that is committed changes, nothing is kept. No
    result opens a file that would not draw it again if it changed."""
    before = git_status()
    nothing["PYTHONPATH"] = f"{watch(tmp_path, ROOT)}{os.pathsep}{nothing['PYTHONPATH']}"
    command = ["run", "--profile", "smoke", "--strict", "--force"]
    done = subprocess.run(
        [sys.executable, "-m", "impsamp.reproduce", *command],
        cwd=ROOT,
        env=nothing,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " 0 partly, 0 kept, 0 failed, 0 not started" in done.stdout
    experiments = [
        entry for entry in manifest["experiment"] if entry_parameters(entry, "smoke") is not None
    ]
    executed = {entry["notebook"] for entry in experiments}
    every = {entry["notebook"] for entry in manifest["experiment"]}
    assert executed == every, "a notebook that no smoke run executes"
    for entry in [*experiments, *manifest["result"]]:
        assert f"== {entry['id']}:" in done.stdout
    assert git_status() == before
    check_opened(manifest["result"], tmp_path)


def test_committed_provenance_describes_the_committed_records(manifest):
    for entry in manifest["experiment"]:
        name = entry["id"]
        provenance = json.loads((ROOT / "data/records" / f"{name}.json").read_text())
        for output, written in provenance["outputs"].items():
            assert digest(ROOT / output) == written, output
        asked = entry_parameters(entry, "full") or {}
        recorded = {key: provenance["parameters"].get(key) for key in asked}
        assert recorded == asked, f"{name}: the committed record is not the manifest's"
