"""Children that start warm: as good as fresh ones, alone, and gone when they should be."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from impsamp.errors import RecordError
from impsamp.reproduce import forks, runner
from impsamp.reproduce.forks import ForkServer
from impsamp.reproduce.notebook import Execution, expire, finish, first_ready, start

MODULE = "colorsys"  # one that nothing else imports

# what a notebook can see of the process that it runs in
SEEN = """
import json, os, signal, sys
seen = dict(
    path=sys.path, cwd=os.getcwd(), main=sys.modules["__main__"].__dict__ is globals(),
    env={k: v for k, v in os.environ.items() if k not in ("JPY_PARENT_PID", "JPY_SESSION_NAME")},
    leads=[os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid()],
    parent=os.environ["JPY_PARENT_PID"] == str(os.getppid()),
    signals=[str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT)],
    ours=[name for name in sys.modules if name.startswith("impsamp")],
    descriptors=len(os.listdir("/proc/self/fd")), flags=str(sys.flags),
    warm="MODULE" in sys.modules,
)
import matplotlib.pyplot as plt
plt.figure()
json.dump({**seen, "backend": plt.get_backend()}, open("OUT", "w"))
""".replace("MODULE", MODULE)


@pytest.fixture(scope="module")
def server():
    with ForkServer([MODULE, "matplotlib.pyplot"]) as server:
        yield server


@pytest.fixture
def begin(tmp_path, server):
    "begin(body, server=...) -> an execution of a notebook of one cell."

    def begun(body, server=server, limit=None):
        path = tmp_path / "x.ipynb"
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(body)])
        nbformat.write(nb, path)
        return start(path, {}, tmp_path / "copy.ipynb", limit, server)

    return begun


def ended(execution: Execution):
    while not first_ready([execution]):
        pass
    finish(execution)


def appeared(file: Path) -> str:
    "The content of a file that somebody is about to write."
    deadline = time.monotonic() + 120
    while not (file.is_file() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return file.read_text()


def gone(*pids):
    "Whether processes end within seconds."
    _, alive = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], 30)
    return not alive


def test_a_fork_sees_what_a_fresh_process_sees(begin, tmp_path):
    "All but the imports: path, folder, environment, group, signals, descriptors, backend."
    seen = []
    for number, by in enumerate(([], [None])):
        out = tmp_path / f"{number}.json"
        ended(begin(SEEN.replace("OUT", str(out)), *by))
        seen.append(json.loads(out.read_text()))
    forked, fresh = seen
    assert (forked.pop("warm"), fresh.pop("warm")) == (True, False)
    assert forked["ours"] == []
    assert forked == fresh


def test_one_notebook_cannot_change_another(begin, tmp_path):
    leave = (
        f"import sys, os, numpy, {MODULE} as m; m.left = os.environ['LEFT'] = sys.left = '1'; "
        "os.chdir('/'); numpy.random.seed(0)"
    )
    look = (
        "import sys, os, numpy, {0}; "
        "assert not hasattr({0}, 'left') and not hasattr(sys, 'left') and 'LEFT' not in os.environ;"
        "open(r'{1}', 'a').write(f'{{numpy.random.random()}} ')"
    ).format(MODULE, tmp_path / "draws")
    for body in (leave, look, look):
        ended(begin(body))
    first, second = (tmp_path / "draws").read_text().split()
    assert first != second


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("1 / 0", "x.ipynb failed: ZeroDivisionError: division by zero"),
        ("import os; os._exit(3)", "x.ipynb failed: DeadKernelError"),
        ("import os, signal; os.kill(os.getppid(), 9)", "its process ended: with status -9"),
    ],
)
def test_what_stopped_a_fork_is_told(begin, body, words):
    with pytest.raises(RecordError, match=words):
        ended(begin(body))


def test_a_time_limit_kills_the_whole_tree(begin, tmp_path):
    file = tmp_path / "pids"
    worker = "subprocess.Popen(['sleep', '60'])"
    body = f"import os, subprocess, time; w = {worker}; f = open(r'{file}', 'w'); "
    body += "f.write(f'{os.getpid()} {w.pid}'); f.close(); time.sleep(60)"
    late = begin(body, limit=3600.0)
    pids = list(map(int, appeared(file).split()))
    late.limit = 0.0
    assert "its time limit of 0 s is over" in str(expire(late))
    assert gone(late.process.pid, *pids)


def test_a_kernel_whose_ports_others_took_is_an_ordinary_one_the_second_time(monkeypatch):
    from jupyter_client.provisioning import local_provisioner

    launched = []
    monkeypatch.setattr(local_provisioner, "launch_kernel", lambda *a, **how: launched.append(a))
    ours, theirs = socket.socketpair()
    waiting = forks._Waiting(os.getpid(), ours)
    forks._launch_by(waiting)
    command = ["python", "-m", "ipykernel_launcher", "-f", "x"]
    kernel = local_provisioner.launch_kernel(command, cwd="/", env={"A": "1"})
    with theirs:
        told = json.loads(theirs.recv(1 << 16))
    assert (kernel.pid, launched) == (os.getpid(), [])
    env = {"A": "1", "JPY_PARENT_PID": str(os.getpid())}
    argv = [*command, f"--IPKernelApp.parent_handle={os.getpid()}"]
    assert told == {"argv": argv, "cwd": "/", "env": env}
    local_provisioner.launch_kernel(command, cwd="/", env={})
    assert launched == [(command,)]


SLEEP = (
    "import os, time; f = open(r'{}', 'w'); f.write(str(os.getpid())); f.close(); time.sleep(60)"
)


def test_when_the_server_is_killed_its_children_end_and_that_is_told(begin, tmp_path):
    file = tmp_path / "pid"
    with ForkServer() as mortal:
        execution = begin(SLEEP.format(file), mortal)
        kernel = int(appeared(file))
        mortal._process.kill()
        with pytest.raises(RecordError, match="its process ended: with status -9"):
            ended(execution)
        assert gone(kernel, execution.process.pid)
        with pytest.raises(RecordError, match="the process that starts notebooks is gone"):
            begin("pass", mortal)


PLAY = """
import sys
from pathlib import Path
from impsamp.reproduce.forks import ForkServer
from impsamp.reproduce.notebook import first_ready, start
if __name__ == "__main__":
    server = ForkServer()
    copy = Path(sys.argv[1]).with_suffix(".copy.ipynb")
    execution = start(Path(sys.argv[1]), {}, copy, None, server)
    Path(sys.argv[2]).write_text(str(server._process.pid))
    first_ready([execution])
"""


def test_server_child_and_kernel_end_when_the_runner_is_killed(tmp_path):
    file, server, path = (tmp_path / name for name in ("pid", "server", "x.ipynb"))
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SLEEP.format(file))])
    nbformat.write(nb, path)
    command = [sys.executable, "-c", PLAY, str(path), str(server)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    pids = [int(appeared(server)), int(appeared(file))]
    child = psutil.Process(pids[1]).ppid()
    assert psutil.Process(child).ppid() == pids[0]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone(*pids, child)


# --- the runner


@pytest.mark.parametrize("several", [True, False])
def test_many_notebooks_are_forks_and_few_are_not(project, monkeypatch, several):
    names = "abcdef" if several else "ab"
    entry = '[[result]]\nid = "{0}"\nnotebook = "{0}.ipynb"\noutputs = ["{0}.txt"]\n'
    project.manifest("".join(map(entry.format, names)))
    for name in names:
        body = f"import sys; open('{name}.txt', 'w').write(str('{MODULE}' in sys.modules))"
        project.notebook("result", body, name=name)
    monkeypatch.setattr(runner, "_SHARED", (MODULE,))
    report = runner.run("paper", jobs=2)
    assert len(report.of("computed")) == len(names)
    assert {(project.root / f"{name}.txt").read_text() for name in names} == {str(several)}


@pytest.mark.full
def test_what_is_shared_starts_no_thread_and_changes_no_record(tmp_path):
    "A fork of a process with threads may hang; one that is warm computes the same bytes."
    with ForkServer(runner._SHARED) as server:
        root = Path(__file__).parents[2]
        outputs = []
        for by in (server, None):
            folder = tmp_path / str(len(outputs))
            env = {"IMPSAMP_OUTPUT": str(folder), "IMPSAMP_RUN": str(folder)}
            with pytest.MonkeyPatch.context() as patch:
                for name, value in env.items():
                    patch.setenv(name, value)
                if by is server:
                    server._wake()
                notebook = root / "nbs/experiments/lahire_anchor.ipynb"
                ended(start(notebook, {}, folder / "copy.ipynb", None, by))
            outputs.append((folder / "data/records/lahire_anchor.csv").read_bytes())
        assert psutil.Process(server._process.pid).num_threads() == 1
    assert outputs[0] == outputs[1]
