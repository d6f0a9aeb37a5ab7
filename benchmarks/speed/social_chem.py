"""How long the whole of Social-Chemistry-101 takes, and how much memory: read, filter, expand, write, read back.

    python benchmarks/speed/social_chem.py [--table social-chem-101.v1.0.tsv] [--out results.json]

Without `--table`, a table of full size in the real schema (355,922 rows, 150 MB) is made of invented texts. Every step
is a process of its own on at most two cores, so that its peak memory (resident set, `getrusage`) is its own; the time
is the step's, and `import` what the imports took before it. The target for `expand` is 10 s and 1 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS, MEGABYTES = 10, 1000
STEPS = {
    "expand": "from sae_moral.data import load_social_chem as f|n = len(f(table))",
    "build": "from sae_moral.data import build as f|f(table, built); n = 0",
    "reload": "from sae_moral.data import load_social_chem as f|n = len(f(built))",
    "verify": "from sae_moral.data import load_social_chem, verify as f|n = len(f(load_social_chem(built)))",
    "sample": "from sae_moral.data import load_data as f|n = len(f('social-chem-101', path=built))",
}
_CHILD = """
import json, resource, sys, time
start = time.perf_counter()
table, built = sys.argv[1:]
{imports}
ready = time.perf_counter()
{work}
done = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
found = {{"import_s": round(ready - start, 2), "seconds": round(done - ready, 2), "peak_mib": round(peak), "n": n}}
print(json.dumps(found))
"""


def main() -> int:
    """Run every step and print a table; 1 if `expand` misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="the real table or its zip (default: an invented one)")
    parser.add_argument("--out", type=Path, help="write the results here as JSON")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory() as folder:
        table = arguments.table or _invent(Path(folder) / "invented.tsv")
        built = Path(folder) / "built.parquet"
        results = {name: _measure(code, table, built) for name, code in STEPS.items()}
        size = table.stat().st_size
    print(f"{'invented' if arguments.table is None else arguments.table.name}: {size / 1e6:.0f} MB, two cores")
    for name, found in results.items():
        took = f"{found['seconds']:6.2f} s  (+ {found['import_s']:.2f} s import)"
        print(f"{name:<8} {took}  peak {found['peak_mib']:>5} MiB")
    if arguments.out:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "bytes": size}
        arguments.out.write_text(json.dumps({**machine, "steps": results}, indent=1) + "\n", encoding="utf8")
    within = results["expand"]["seconds"] < SECONDS and results["expand"]["peak_mib"] * 2**20 < MEGABYTES * 10**6
    print(f"target for expand, {SECONDS} s and {MEGABYTES} MB: {'met' if within else 'missed'}")
    return 0 if within else 1


def _invent(path: Path) -> Path:
    sys.path.insert(0, str(ROOT))
    from tests.data.invented_social_chem import FULL, write_table

    return write_table(path, FULL)


def _measure(code: str, table: Path, built: Path) -> dict[str, float]:
    imports, work = code.split("|")
    child = [sys.executable, "-c", _CHILD.format(imports=imports, work=work), str(table), str(built)]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
