"""Run the benchmarks of this folder and write what they print to docs/results/speed.md.

    python benchmarks/speed/page.py [NAME ...] [--data SOURCE] [--page docs/results/speed.md]

One after the other, nothing beside them. A section that is not run again stays as it is. NAME: capture, precision,
controls, plan, sae, surgery, steering, generation, startup, social_chem (default: all but the last, which makes a table
of 150 MB).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD = """# Speed and memory

What the scripts of `benchmarks/speed` printed, by `python benchmarks/speed/page.py`. Read the ratios, which are of arms
that took turns in one run; single times drift: the machines are shared.
"""
SECTIONS = {
    "capture": ("Capture", ["--texts", "160", "--rounds", "2", "--memory", "4000"], True),
    "precision": ("Precision", [], True),
    "controls": ("A diagnosis with every control", ["--workers", "2", "--naive", "0"], True),
    "plan": ("What a plan says, and what it took", [], True),
    "sae": ("Training SAEs", ["--rounds", "3"], True),
    "surgery": ("Surgery", ["--rounds", "5"], False),
    "steering": ("Steering", [], False),
    "generation": ("Generation", [], False),
    "startup": ("Start", [], False),
    "social_chem": ("Social-Chemistry-101", [], False),
}
"""Script → title, options, whether it takes `--data`."""


def section(name: str, data: str | None) -> str:
    """What a script prints, under its title."""
    title, options, takes_data = SECTIONS[name]
    script = f"benchmarks/speed/{name}.py"
    shown = ["--data", Path(data).name, *options] if data and takes_data else options
    given = ["--data", data, *options] if data and takes_data else options
    done = subprocess.run([sys.executable, script, *given], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    made = f"{date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} shared cores:"
    command = shlex.join(["python", script, *shown])
    return f"## {title}\n\n{made}\n\n```sh\n{command}\n```\n\n```text\n{done.stdout.strip()}\n```\n"


def kept(page: Path) -> dict[str, str]:
    """Sections of an earlier page, by title."""
    text = page.read_text(encoding="utf8") if page.exists() else ""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in parts}


def main() -> None:
    """Run what was asked for, and write the page after each script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which of them")
    parser.add_argument("--data", help="a source or a table, for the scripts that take one")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/results/speed.md")
    given = parser.parse_args()
    names = given.names or [name for name in SECTIONS if name != "social_chem"]
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    data = given.data and (str(Path(given.data).resolve()) if Path(given.data).exists() else given.data)
    for name in names:
        print(name, flush=True)
        found = {**kept(given.page), SECTIONS[name][0]: section(name, data)}
        ordered = [found[title] for title, *_ in SECTIONS.values() if title in found]
        given.page.write_text("\n".join([HEAD, *ordered]), encoding="utf8")


if __name__ == "__main__":
    main()
