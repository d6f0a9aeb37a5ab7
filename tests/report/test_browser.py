"""Pages in a browser: no errors, nothing beyond the edge of a narrow screen; long tables sort, filter and save."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

from benchmarks.screenshots import CHROMIUM
from sae_moral import Diagnosis
from sae_moral.report import write_report
from sae_moral.studies import Atlas, Sweep
from tests.report.made import compared, recorded, trained
from tests.report.records import realistic

FILES = Path(__file__).resolve().parents[1] / "data_files" / "v0.1"
WIDTHS = (390, 768, 1400)
SECONDS = 120
"""That a browser may take on a busy machine."""

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
  await fetch("found", { method: "POST", body: JSON.stringify(found) });
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


def training(folder: Path) -> None:
    (folder / "page.html").write_text(trained(folder, tuple(range(0, 30, 3))).page(), encoding="utf8")


def operation(folder: Path) -> None:
    (folder / "page.html").write_text(recorded().page(), encoding="utf8")


def saes(folder: Path) -> None:
    compared(saes=6).save(folder)
    (folder / "saes.html").rename(folder / "page.html")


PAGES = (diagnosis, matched, atlas, sweep, training, operation, saes)


def opened(folder: Path) -> dict[str, Any]:
    """What the harness found in `page.html` of a folder; it sends that to a server that serves the folder."""
    (folder / "harness.html").write_text(HARNESS % json.dumps(WIDTHS), encoding="utf8")
    said: Queue[bytes] = Queue()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            said.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--mute-audio"]
    flags += [f"--user-data-dir={folder / 'profile'}", f"http://127.0.0.1:{server.server_port}/harness.html"]
    log = folder / "browser.log"
    with log.open("wb") as written:
        browser = subprocess.Popen([str(CHROMIUM), *flags], stdout=written, stderr=written)
    try:
        found = json.loads(said.get(timeout=SECONDS))
    except Empty:
        raise AssertionError(f"nothing after {SECONDS} s:\n{log.read_text(errors='replace')[-2000:]}") from None
    finally:
        browser.kill()
        browser.wait()
        server.shutdown()
        server.server_close()
    lines = log.read_text(errors="replace").splitlines()
    found["errors"] += [line for line in lines if "CONSOLE" in line and "favicon" not in line]
    return found


@pytest.mark.parametrize(
    "made", [diagnosis, matched, atlas, sweep, training, operation, saes], ids=lambda made: made.__name__
)
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
