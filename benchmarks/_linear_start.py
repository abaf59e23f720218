"""Seconds of the first fit of a process: with nothing compiled yet, and with kernels kept."""

import os
import subprocess
import sys
import tempfile

SCRIPT = """
import time
import numpy as np
from scipy import sparse
from impsamp import VRClassifier

X = np.random.default_rng(0).normal(size=(500, 5)).astype("{dtype}")
y = X[:, 0] > 0
rows = {form}(X)
wall, processor = time.perf_counter(), time.process_time()
VRClassifier({options}).fit(rows, y)
print(time.perf_counter() - wall, time.process_time() - processor)
"""
CASES = {
    "dense, float64": dict(dtype="float64", form="np.asarray", options=""),
    "dense, float32": dict(dtype="float32", form="np.asarray", options=""),
    "CSR, float64": dict(dtype="float64", form="sparse.csr_matrix", options=""),
    "dense, float64, method='saga'": dict(
        dtype="float64", form="np.asarray", options="method='saga'"
    ),
    "CSR, float64, method='svrg'": dict(
        dtype="float64", form="sparse.csr_matrix", options="method='svrg'"
    ),
}


def first_fit(case, folder):
    "(seconds by the clock, processor seconds) of the first fit of a fresh process."
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT.format(**case)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | dict(IMPSAMP_KERNEL_CACHE=folder),
    )
    wall, processor = done.stdout.split()
    return float(wall), float(processor)


def start_lines():
    "Markdown: one row a case, the first process and the second, each with its own empty cache."
    lines = [
        "First `VRClassifier().fit` of a process (500 x 5), imports outside; processor seconds, "
        "in brackets by the clock:",
        "",
        "| data | first process (compiles) | second process (finds the kernels) |",
        "| --- | --- | --- |",
    ]
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            runs = [first_fit(case, folder) for _ in range(2)]
        cells = [f"{processor:.2f} ({wall:.2f})" for wall, processor in runs]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
        print(lines[-1], flush=True)
    return lines
