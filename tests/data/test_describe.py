"""`describe` and its figure, for any data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from sae_moral.data import describe, describe_figure, load_data
from sae_moral.data.moral_data import from_records


def _harm(strength: float) -> np.ndarray:
    return np.array([0, strength, *[0] * 8])


def test_levels_are_counted_and_repeats_named() -> None:
    records = [
        ("a", "hiding a kite", _harm(0.5), 0), ("b", "Hiding a kite.", _harm(1.0), 0), ("c", "waiting", _harm(0), 0),
        ("d", "waiting for rain at dawn", np.zeros(10), -1),
    ]  # fmt: skip
    provenance = {"source": "own", "licence": "CC0", "citation": "Nobody (1900)", "left_out": {"marked bad": 1200}}
    text = describe(from_records(records, provenance))
    assert text.splitlines()[:4] == [
        "own: 4 records of 3 different texts", "licence: CC0", "citation: Nobody (1900)", "left out: 1,200 marked bad",
    ]  # fmt: skip
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in text.splitlines() if line.startswith(("care", "("))}
    assert rows == {("care-harm", "vice"): ["2", "1", "1", "3"], ("care-harm", "neutral"): ["1", "1"],
                    ("(none)", "neutral"): ["1", "5"]}  # fmt: skip
    assert "records that repeat a text of the same foundation: 1" in text
    assert "longest 5" in text


def test_many_levels_are_summed_up_by_quantiles() -> None:
    data = from_records([(str(i), f"deed {i}", _harm(i / 20), 0) for i in range(1, 20)], {})
    row = next(line for line in describe(data).splitlines() if line.startswith("care-harm"))
    assert row.split() == ["care-harm", "vice", "19", "0.050", "0.275", "0.500", "0.725", "0.950", "2"]


@pytest.mark.parametrize(
    "name",
    ["social-chem-101/stratified_sample.jsonl", "vignettes/clifford_2015.jsonl", "reddit-corpus/mfrc_aggregated.tsv"],
)
def test_every_source_is_described_and_drawn(shared: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    data = load_data(shared(name))
    text = describe(data)
    assert max(map(len, text.splitlines()[text.splitlines().index("") :])) <= 120
    assert f"{len(data):,} records" in text
    figure = describe_figure(data)
    figure.savefig(tmp_path / "figure.png")
    counted = sum(patch.get_height() for axes in figure.axes for patch in axes.patches if isinstance(patch, Rectangle))
    assert counted == len(data)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_figure_needs_no_pyplot(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys, numpy as np; from sae_moral.data import describe_figure\n"
        "from sae_moral.data.moral_data import from_records\n"
        "describe_figure(from_records([('a', 'waiting', np.zeros(10), 0)], {})).savefig(sys.argv[1])\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "f.svg"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
