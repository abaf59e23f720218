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
SEARCH = """
import resource
import time
import numpy as np
from joblib.externals.loky import get_reusable_executor
from sklearn.model_selection import GridSearchCV
from impsamp import VRClassifier

X = np.random.default_rng(0).normal(size=(500, 5))
y = X[:, 0] > 0
whole = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
before = sum(each.ru_utime + each.ru_stime for each in whole)
wall = time.perf_counter()
GridSearchCV(VRClassifier({options}), dict(l2=[1e-4, 1e-3, 1e-2]), n_jobs=2).fit(X, y)
wall = time.perf_counter() - wall
get_reusable_executor().shutdown(wait=True)
whole = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(wall, sum(each.ru_utime + each.ru_stime for each in whole) - before)
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
    "GridSearchCV(n_jobs=2), 15 fits": dict(script=SEARCH, options=""),
    "GridSearchCV(n_jobs=2), 15 fits, method='saga'": dict(script=SEARCH, options="method='saga'"),
}


def first_fit(case, folder):
    "(seconds by the clock, processor seconds) of the first fit of a fresh process."
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", case.get("script", SCRIPT).format(**case)],
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
        "in brackets by the clock. A search's two workers import everything themselves, which is "
        "most of its seconds, and are counted:",
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
