"""Which files each Python process opened: what a notebook read and wrote, whatever it says."""

from collections import defaultdict
from pathlib import Path

# found by every interpreter that starts with this folder on PYTHONPATH; forks take it with them
HOOK = """
import os, sys
pipes = {{}}

def note(event, args):
    if event == "open" and isinstance(args[0], str):
        kind = "r" if not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR) else "w"
        path = args[0]
    elif event == "os.rename":
        kind, path = "w", os.fspath(args[1])
    else:
        return
    path = os.path.abspath(path)
    pid = os.getpid()
    if not path.startswith({root!r}) or pid in busy:
        return
    busy.add(pid)
    try:
        if pid not in pipes:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            pipes[pid] = os.open({folder!r} + f"/{{pid}}.opened", flags)
        os.write(pipes[pid], f"{{kind}} {{path}}\\n".encode())
    finally:
        busy.discard(pid)

busy = set()
sys.addaudithook(note)
"""


def watch(folder: Path, root: Path) -> str:
    "A folder for PYTHONPATH: every process notes in `folder` what it opens below `root`."
    (folder / "sitecustomize.py").write_text(HOOK.format(root=f"{root}/", folder=str(folder)))
    return str(folder)


def opened(folder: Path) -> list[dict[str, set[Path]]]:
    "What each process opened: r for reading, w for writing or by a rename."
    found = []
    for file in folder.glob("*.opened"):
        paths = defaultdict(set)
        for line in file.read_text().splitlines():
            kind, _, path = line.partition(" ")
            paths[kind].add(Path(path))
        found.append(paths)
    return found
