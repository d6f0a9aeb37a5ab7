"""Figures as files: the formats are what they say, text is text, and equal figures are equal bytes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.image import imread

from sae_moral.report import layer_figure, save_figure
from sae_moral.report.save import FORMATS, format_of
from tests.report.records import realistic


def test_every_format_is_written_and_valid(tmp_path: Path) -> None:
    figure = layer_figure(realistic(layers=4), "gradient", width=3.3)
    png, svg, pdf = (save_figure(figure, tmp_path / "new" / f"figure.{name}") for name in FORMATS)
    assert imread(png).shape[1] == 3.3 * 300
    root = ElementTree.fromstring(svg.read_text())
    words = ["".join(one.itertext()).strip() for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"layer", "overall", "interval"} <= set(words)
    width, height = (float(root.attrib[name].removesuffix("pt")) for name in ("width", "height"))
    assert width == pytest.approx(3.3 * 72) and height == pytest.approx(figure.get_figheight() * 72, abs=0.01)
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    assert b"/FontFile2" in content and b"/Type3" not in content
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", content)
    assert box is not None and float(box[1]) == pytest.approx(3.3 * 72)


def test_no_file_holds_a_date(tmp_path: Path) -> None:
    figure = layer_figure(realistic(layers=4), "gradient")
    for name in FORMATS:
        content = save_figure(figure, tmp_path / f"figure.{name}").read_bytes()
        assert b"Date" not in content and b":date" not in content


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom sae_moral.report import layer_figure, save_figure\n"
        "from tests.report.records import realistic\n"
        "for path in sys.argv[1:]: save_figure(layer_figure(realistic(layers=4), 'gradient'), path)"
    )
    runs = [[tmp_path / f"{i}.{name}" for name in FORMATS] for i in range(2)]
    for i, paths in enumerate(runs):
        root = Path(__file__).resolve().parents[2]
        environment = {**os.environ, "PYTHONHASHSEED": str(i), "PYTHONPATH": str(root)}
        subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True, env=environment, cwd=root)
    assert [path.read_bytes() for path in runs[0]] == [path.read_bytes() for path in runs[1]]


def test_what_cannot_be_written_says_what_can(tmp_path: Path) -> None:
    figure = layer_figure(realistic(layers=1), "gradient")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"path": "a.pdv"}, "unknown figure format 'pdv'; did you mean 'pdf'"),
        ({"path": "a.png", "format": "bmp"}, "unknown figure format 'bmp'; valid: png, svg, pdf"),
        ({"path": "a.svg", "format": "pdf"}, "the format pdf and a file that ends with .svg"),
        ({"path": "a"}, "a does not say its format; expected a name that ends with .png"),
        ({"path": "a.png", "resolution": 0}, "resolution 0; expected 50 to 2400"),
    ]
    for arguments, problem in cases:
        arguments["path"] = arguments["path"] if arguments["path"] == "a" else tmp_path / arguments["path"]
        with pytest.raises(ValueError, match=problem):
            save_figure(figure, **arguments)
    assert list(tmp_path.iterdir()) == []
    assert format_of("Figure.PDF") == "pdf" and format_of("figure.v2", "svg") == "svg"
