"""The command line: what a user types, what is written, how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sae_moral.cli import main
from tests.data.invented_social_chem import write_table
from tests.tiny import scenarios


@pytest.fixture
def table(tmp_path: Path) -> Path:
    data = scenarios(120)
    lines = (json.dumps({"text": t, "vector": v}) for t, v in zip(data.text, data.vector.tolist(), strict=True))
    path = tmp_path / "table.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_diagnose_writes_results_and_report_and_prints_a_table(
    tiny_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    status = main(
        [
            "diagnose",
            str(tiny_folder),
            "--data",
            str(table),
            "--layers",
            "0,2",
            "--metrics",
            "categorical,dimensional",
            "--controls",
            "interval",
            "--out",
            str(out),
        ]
    )
    printed = capsys.readouterr().out
    assert status == 0
    assert "categorical" in printed and "dimensional" in printed and str(out / "report.html") in printed
    content = json.loads((out / "diagnosis.json").read_text())
    assert content["provenance"]["layers"] == [0, 2]
    assert {row["metric"] for row in content["results"]} == {"categorical", "dimensional"}
    assert (out / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_installed_command_reports_bad_input_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("text,foundation,judgment,agreement\nlying,care-hram,-1,2\n")
    command = [
        str(Path(sys.executable).parent / "sae-moral"),
        "diagnose",
        "smollm2-135m-instruct",
        "--data",
        str(tmp_path / "bad.csv"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "bad.csv, row 2" in done.stderr and "did you mean 'care-harm'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data"], "moralstrength"),
        (["models"], "gemma-3-270m"),
        (["metrics"], "categorical (headline: auroc)"),
        (["metrics", "--protocol", "paper"], "categorical (headline: cosine)"),
    ],
)
def test_lists(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert expected in capsys.readouterr().out


def test_data_describes_a_table(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", str(table)]) == 0
    assert "care-harm" in capsys.readouterr().out


def test_unknown_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", "nowhere.jsonl"]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_social_chemistry_is_built_verified_and_sampled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, built, sample = tmp_path / "invented.tsv", tmp_path / "built.parquet", tmp_path / "sample.parquet"
    write_table(table, rows=2000)
    assert main(["data", "build", str(table), "--out", str(built)]) == 0
    assert main(["data", "verify", str(built)]) == 1  # an invented table cannot have the published counts
    assert "differs" in capsys.readouterr().out
    assert main(["data", "sample", str(built), "--out", str(sample)]) == 0
    assert main(["data", "info", str(sample), "--figure", str(tmp_path / "info.svg")]) == 0
    assert "care-harm" in capsys.readouterr().out and (tmp_path / "info.svg").exists()


def test_offline_without_the_table_says_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path))
    assert main(["data", "verify", "--offline"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
