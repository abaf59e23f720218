"""`make bench`: every benchmark in turn, each with its own table beside it. `python -m benchmarks.NAME --help` has the options of one."""

import pkgutil
import subprocess
import sys
from pathlib import Path

for module in sorted(
    m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if not m.name.startswith("_")
):
    print(f"== benchmarks.{module}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], check=True)
