"""Pages in a browser: no errors, nothing beyond the edge of a narrow screen; long tables sort, filter and save."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_moral import Diagnosis
from sae_moral.report import write_report
from sae_moral.studies import Atlas, Sweep
from tests.report.records import realistic

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FILES = Path(__file__).resolve().parents[1] / "data_files" / "v0.1"
WIDTHS = (390, 768, 1400)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, Chrome or their headless build")

HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body><script>
"use strict";
const widths = %s, page = "page.html", found = { errors: [], widths: {}, tables: [] };
const settled = (frame) => new Promise((done) => frame.addEventListener("load", () => setTimeout(done, 100)));
const table = (view, details) => {
  const saved = {};
  view.URL.createObjectURL = (blob) => { saved.type = blob.type; saved.blob = blob; return "#"; };
  details.open = true;
  const rows = () => Array.from(details.querySelectorAll("tbody tr")).filter((row) => !row.hidden);
  const heads = details.querySelectorAll("thead button"), last = heads[heads.length - 1];
  const cells = () => rows().map((row) => row.cells[heads.length - 1].textContent);
  last.click();
  const up = cells();
  last.click();
  const down = cells(), all = rows().length, first = rows()[0].cells[0].textContent.trim();
  const filter = details.querySelector(".filter");
  filter.value = first;
  filter.dispatchEvent(new view.Event("input"));
  const some = rows().length;
  const button = (name) => Array.from(details.querySelectorAll("button.save")).find((one) => one.textContent === name);
  const wait = [];
  for (const name of ["CSV", "JSON"]) {
    button(name).click();
    wait.push(saved.blob.text().then((text) => [name, text]));
  }
  return Promise.all(wait).then((texts) => ({ up, down, all, some, ...Object.fromEntries(texts) }));
};
(async () => {
  for (const width of widths) {
    const frame = document.createElement("iframe");
    frame.style.cssText = `width: ${width}px; height: 844px; border: 0`;
    frame.src = page;
    const loaded = settled(frame);
    document.body.append(frame);
    await loaded;
    const view = frame.contentWindow, root = frame.contentDocument.documentElement;
    view.addEventListener("error", (event) => found.errors.push(event.message));
    found.widths[width] = root.scrollWidth;
    found.screens = found.screens ?? root.scrollHeight / 844;
    if (width === widths[0]) {
      for (const details of frame.contentDocument.querySelectorAll("details.full:has(.filter)")) {
        found.tables.push(await table(view, details));
      }
      found.opened = root.scrollWidth;
    }
  }
  document.title = "done";
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.replaceChildren(out);
})();
</script>"""


def diagnosis(folder: Path) -> None:
    write_report(realistic(), folder / "page.html")


def matched(folder: Path) -> None:
    Diagnosis.load(FILES / "audited-all.json").report(folder / "page.html")


def atlas(folder: Path) -> None:
    Atlas.load(FILES / "atlas.json").report(folder / "page.html")


def sweep(folder: Path) -> None:
    Sweep.load(FILES / "sweep.json").save(folder)
    (folder / "sweep.html").rename(folder / "page.html")


def opened(folder: Path) -> dict[str, Any]:
    """What the harness found in `page.html` of a folder."""
    (folder / "harness.html").write_text(HARNESS % json.dumps(WIDTHS), encoding="utf8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--mute-audio"]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=20000", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, "--dump-dom", (folder / "harness.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=180,
    )
    said = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert said, done.stderr[-2000:]
    found = json.loads(said[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    found["errors"] += [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return found


@pytest.mark.parametrize("made", [diagnosis, matched, atlas, sweep], ids=lambda made: made.__name__)
def test_a_page(made: Callable[[Path], None], tmp_path: Path) -> None:
    made(tmp_path)
    found = opened(tmp_path)
    assert found["errors"] == []
    assert {width: value for width, value in found["widths"].items() if value > int(width)} == {}
    assert found["opened"] <= WIDTHS[0]
    assert found["screens"] < 10
    for table in found["tables"]:
        assert sorted(table["up"]) == sorted(table["down"]) and 1 <= table["some"] <= table["all"]
        assert (table["up"] != table["down"]) == (len(set(table["up"])) > 1)
        rows = json.loads(table["JSON"])
        assert len(rows) == table["some"] and table["CSV"].count("\n") == table["some"] + 1
        assert all(row.keys() == rows[0].keys() for row in rows)


def test_saved_numbers_are_numbers(tmp_path: Path) -> None:
    diagnosis(tmp_path)
    rows = [row for table in opened(tmp_path)["tables"] for row in json.loads(table["JSON"])]
    assert any(isinstance(value, float) for row in rows for value in row.values())
    texts = [value for row in rows for value in row.values() if isinstance(value, str)]
    assert not [text for text in texts if re.fullmatch(r"[−-]?\d+\.\d+", text)]
