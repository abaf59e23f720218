"""`make bench`: every benchmark in turn, each with its own table beside it.

`python -m benchmarks.NAME --help` has the options of one.
"""

import pkgutil
import subprocess
import sys
from pathlib import Path

found = pkgutil.iter_modules([str(Path(__file__).parent)])
for name in sorted(m.name for m in found if not m.name.startswith("_")):
    print(f"== benchmarks.{name}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
