"""A process that dies with its parent, and the script that executes one notebook."""

import json
import os
import subprocess
import sys
import time

import nbformat
import psutil

from impsamp.reproduce import child

WATCHING = """
import time
from impsamp.reproduce.child import die_with_parent
die_with_parent({parent}, every=0.05)
print("watching", flush=True)
time.sleep(60)
"""


def started(parent=None):
    "A child whose child watches it; and the pipe that both hold."
    inner = WATCHING.format(parent=parent)
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    return subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE)


def test_a_grandchild_ends_when_its_parent_is_killed():
    process = started()
    assert process.stdout.readline() == b"watching\n"
    process.kill()
    began = time.monotonic()
    assert process.stdout.read() == b""  # every holder is gone
    assert time.monotonic() - began < 30


def test_a_parent_that_is_gone_already_counts_as_dead():
    process = subprocess.Popen([sys.executable, "-c", WATCHING.format(parent=1)])
    assert process.wait(90) == 1


def notebook(path, *cells):
    nb = nbformat.v4.new_notebook()
    tagged = {"tags": ["parameters"]}
    nb.cells = [nbformat.v4.new_code_cell("runs = 1", metadata=tagged)]
    nb.cells += map(nbformat.v4.new_code_cell, cells)
    nbformat.write(nb, path)
    return dict(
        notebook=str(path),
        copy=str(path.with_suffix(".copy.ipynb")),
        parameters={"runs": 3},
        cwd=str(path.parent),
    )


def test_parameters_and_folder_reach_the_notebook(tmp_path):
    body = "import os; open('out', 'w').write(f'{runs} {os.getcwd()}')"
    assert child.execute(notebook(tmp_path / "x.ipynb", body)) == {}
    assert (tmp_path / "out").read_text() == f"3 {tmp_path}"
    assert (tmp_path / "x.copy.ipynb").is_file()


def test_what_stopped_a_notebook_is_told_by_name(tmp_path):
    task = notebook(tmp_path / "x.ipynb", "1 / 0")
    assert child.execute(task) == {"error": "ZeroDivisionError", "message": "division by zero"}


def test_a_notebook_that_leaves_python_has_failed_whatever_its_status(tmp_path):
    "papermill takes status 0 for an end, and the committed outputs of a result still lie there."
    done = child.execute(notebook(tmp_path / "x.ipynb", "import sys; sys.exit(0)", "1 + 1"))
    assert done["error"] == "SystemExit"
    assert "before its last cell" in done["message"]


def test_a_kernel_that_dies_is_told(tmp_path):
    told = child.execute(notebook(tmp_path / "x.ipynb", "import os; os._exit(3)"))
    assert told["error"] == "DeadKernelError"


def test_a_kernel_whose_ports_others_took_is_started_again(tmp_path, monkeypatch):
    "Nothing of the notebook ran; after three starts it is told."
    import papermill

    starts, execute = [], papermill.execute_notebook

    def unlucky(*args, **kwargs):
        starts.append(kwargs["cwd"])
        if len(starts) in unlucky.at:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return execute(*args, **kwargs)

    monkeypatch.setattr(papermill, "execute_notebook", unlucky)
    task = notebook(tmp_path / "x.ipynb", "open('out', 'a').write('once')")
    unlucky.at = {1, 2}
    assert child.execute(task) == {}
    assert (len(starts), (tmp_path / "out").read_text()) == (3, "once")
    unlucky.at = {4, 5, 6}
    assert child.execute(task)["error"] == "RuntimeError"
    assert (len(starts), (tmp_path / "out").read_text()) == (6, "once")


def test_a_copy_that_cannot_be_written_is_told(tmp_path):
    task = notebook(tmp_path / "x.ipynb", "runs")
    told = child.execute({**task, "copy": str(tmp_path / "nowhere" / "x.ipynb")})
    assert "nowhere/x.ipynb cannot be written: output folder" in told["message"]


def test_the_script_imports_nothing_of_the_package(tmp_path):
    "It starts in tenths of a second; the module's folder hides no module of the standard library."
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-P", "-c", code, child.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"impsamp", "torch", "numpy"} & {*done.stdout.split()}


def test_a_kernel_and_its_workers_end_when_the_runner_is_killed(tmp_path):
    "The runner's part is played by a process that starts the script and is killed."
    body = (
        "from joblib import Parallel, delayed; import os, time\n"
        "from impsamp.reproduce.store import run_all\n"
        "def work(k):\n"
        "    import os, time; open(f'pid{k}', 'w').write(str(os.getpid())); time.sleep(60)\n"
        "    return {}\n"
        "open('pid', 'w').write(str(os.getpid()))\n"
        "run_all(work, [dict(k=0), dict(k=1)], experiment='x', jobs=2, root=os.getcwd())\n"
    )
    task = notebook(tmp_path / "x.ipynb", body)
    play = (
        "import json, os, subprocess, sys\n"
        f"task = {task!r} | dict(parent=os.getpid())\n"
        f"command = [sys.executable, '-P', {child.__file__!r}, '1']\n"
        "subprocess.run(command, input=json.dumps(task).encode(), start_new_session=True)\n"
    )
    runner = subprocess.Popen([sys.executable, "-c", play], stdout=subprocess.DEVNULL)
    files = [tmp_path / name for name in ("pid", "pid0", "pid1")]
    deadline = time.monotonic() + 60
    while not all(file.is_file() and file.read_text() for file in files):
        assert time.monotonic() < deadline and runner.poll() is None
        time.sleep(0.05)
    pids = [int(file.read_text()) for file in files]
    assert len({*pids}) == 3
    os.kill(runner.pid, 9)
    runner.wait()
    _, alive = psutil.wait_procs([p for p in map(process_of, pids) if p], timeout=10)
    assert alive == []


def process_of(pid):
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def test_main_reads_a_task_and_answers(tmp_path):
    task = notebook(tmp_path / "x.ipynb", "raise KeyError('k')") | {"parent": os.getpid()}
    answer, theirs = os.pipe()
    command = [sys.executable, "-P", child.__file__, str(theirs)]
    subprocess.run(command, input=json.dumps(task).encode(), pass_fds=[theirs], check=True)
    os.close(theirs)
    with os.fdopen(answer) as pipe:
        assert json.load(pipe)["error"] == "KeyError"
