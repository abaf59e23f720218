"""Starts a worker script of this folder under torchrun."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def torchrun(ranks, script, *args, timeout=300):
    "The finished process of `ranks` ranks that run `script` with `args`."
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        str(HERE / script),
        *map(str, args),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def reports_of(folder, ranks):
    "What each rank has written."
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in range(ranks)]
