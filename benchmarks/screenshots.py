"""Pictures of pages for the documentation: `python benchmarks/screenshots.py PAGE.html … --out docs/images`.

A picture has the name of its page's folder: `diagnosis/report.html` gives `diagnosis.png`. Needs Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


def shoot(page: Path, picture: Path, size: tuple[int, int]) -> None:
    """The first screen of a page, as a PNG file of `size` pixels."""
    if CHROMIUM is None:
        raise SystemExit(f"no browser; install one of {', '.join(BROWSERS)}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        flags += [f"--window-size={size[0]},{size[1]}", f"--screenshot={picture.resolve()}", page.resolve().as_uri()]
        subprocess.run([CHROMIUM, *flags], check=True, capture_output=True, timeout=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--height", type=int, default=1000)
    given = parser.parse_args()
    for page in given.pages:
        picture = given.out / f"{page.resolve().parent.name}.png"
        shoot(page, picture, (given.width, given.height))
        print(picture)


if __name__ == "__main__":
    main()
