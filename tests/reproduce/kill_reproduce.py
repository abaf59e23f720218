"""Kill a command's whole process tree with SIGKILL at random moments, then let it finish.

    python tests/reproduce/kill_reproduce.py --times 5 --seed 0 --between 20 100 -- make reproduce

A kernel starts in a session of its own, so killing a process group is not enough: every descendant
is killed, wherever it is. What must hold afterwards: exit code 0, and `git status` shows no record
changed.
"""

import argparse
import contextlib
import random
import subprocess
import sys
import time

import psutil


def kill_tree(process):
    "SIGKILL to every descendant and the process itself; returns how many there were."
    parent = psutil.Process(process.pid)
    tree = [*parent.children(recursive=True), parent]
    for p in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            p.kill()
    process.wait()
    psutil.wait_procs(tree, timeout=10)
    return len(tree)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--between", type=float, nargs=2, default=(20, 100), metavar="SECONDS")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = [c for c in args.command if c != "--"]
    rng = random.Random(args.seed)
    for k in range(args.times):
        process = subprocess.Popen(command)
        wait = rng.uniform(*args.between)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            killed = kill_tree(process)
            print(f"\n## kill {k + 1}: after {wait:.1f} s, {killed} processes", flush=True)
        else:
            print(f"\n## finished before kill {k + 1}", flush=True)
    began = time.monotonic()
    code = subprocess.call(command)
    print(f"## last start: exit code {code} after {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
