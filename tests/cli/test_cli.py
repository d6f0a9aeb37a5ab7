"""The command line: what a user types, and what is written."""

from __future__ import annotations

import argparse
import errno
import functools
import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from sae_moral import cli, io
from sae_moral.cli import COMMANDS, main
from sae_moral.cli.folders import name_of
from sae_moral.results import DiagnosisRecord
from tests.data.invented_social_chem import write_table
from tests.forks import killed as kill
from tests.forks import one_thread
from tests.tiny import save_tiny_model

RESULTS = Path(__file__).resolve().parents[1] / "data_files" / "v0.1"
QUICK = ["--controls", "none", "--metrics", "categorical", "--layers", "1", "--device", "cpu"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is written, and where


def test_diagnose_writes_results_and_report_and_prints_a_table(
    tiny_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = ["diagnose", str(tiny_folder), "--data", str(table), "--out", str(out)]
    options = ["--layers", "0,2", "--metrics", "categorical,dimensional", "--controls", "interval"]
    assert main([*line, *options]) == 0
    printed = capsys.readouterr().out
    assert "categorical" in printed and "dimensional" in printed and str(out / "report.html") in printed
    record = DiagnosisRecord.load(out)
    assert record.provenance["layers"] == [0, 2]
    assert {row.metric for row in record.rows} == {"categorical", "dimensional"}
    assert (out / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    assert [name for name in names(out) if not name.startswith(".lock")] == [
        "diagnosis.json",
        "report.html",
        "run.json",
    ]


def test_verbose_says_what_takes_long(
    tiny_folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["diagnose", str(tiny_folder), "--data", str(table), *QUICK]
    assert main([*line, "--out", str(tmp_path / "quiet")]) == 0
    quiet = capsys.readouterr()
    assert "INFO" not in quiet.err
    for i, given in enumerate(([*line, "-v"], ["--verbose", *line])):
        assert main([*given, "--out", str(tmp_path / f"{i}")]) == 0
        told = capsys.readouterr()
        assert told.out.replace(str(tmp_path / f"{i}"), "") == quiet.out.replace(str(tmp_path / "quiet"), "")
        said = re.findall(r"INFO (sae_moral\.[\w.]+): (\S+)", told.err)
        assert [of for of in said if of[0] == "sae_moral.capture.run"] == [("sae_moral.capture.run", "capture")] * 2
        assert {"sae_moral.capture.models", "sae_moral.io.folders", "sae_moral.diagnosis"} <= {name for name, _ in said}
    assert main(["data", "info", str(table), "--debug", "-v"]) == 0


def test_models_with_dots_in_their_names_have_folders_of_their_own(
    tiny_folder: Path, table: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Llama-3.1-8B", "Llama-3.2-1B"):
        shutil.copytree(tiny_folder, here / name)
        assert main(["diagnose", name, "--data", str(table), *QUICK]) == 0
    found = [name for name in names(here) if name.startswith("diagnosis-")]
    assert found == ["diagnosis-Llama-3.1-8B-table.v1-audited", "diagnosis-Llama-3.2-1B-table.v1-audited"]


def test_names_in_folders(here: Path) -> None:
    (here / "models" / "Qwen2.5-7B").mkdir(parents=True)
    (here / "data.v2.csv").write_text("")
    expected = {
        "Qwen/Qwen3-0.6B": "Qwen--Qwen3-0.6B",
        "Qwen/Qwen3-0.6B-Base": "Qwen--Qwen3-0.6B-Base",
        "models/Qwen2.5-7B": "Qwen2.5-7B",
        "models/Qwen2.5-7B/": "Qwen2.5-7B",
        "models/../models": "models",
        ".": "here",
        "data.v2.csv": "data.v2",
        "social-chem-101": "social-chem-101",
    }
    assert {given: name_of(given) for given in expected} == expected


def test_a_folder_with_other_results_is_refused(
    tiny_folder: Path, table: Path, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["diagnose", str(tiny_folder), "--data", str(table), *QUICK, "--out", "out"]
    assert main(line) == 0
    first = (here / "out" / "diagnosis.json").read_bytes()
    assert main(line) == 0  # the same again
    other = str(save_tiny_model(tmp_path / "other", seed=1))
    for changed, message in (
        (["--protocol", "paper"], "protocol"),
        (["--metrics", "gradient"], "metrics ['categorical'] (now ['gradient'])"),
        (["--limit", "100"], "limit None (now 100)"),
        (["--layers", "2"], "layers [1] (now [2])"),
        (["--dtype", "bfloat16"], "dtype"),
    ):
        before = (here / "out" / "diagnosis.json").read_bytes()
        capsys.readouterr()
        assert main([*line, *changed]) == 2
        told = capsys.readouterr().err
        assert "out holds other results" in told and message in told and "--overwrite" in told
        assert (here / "out" / "diagnosis.json").read_bytes() == before
    assert main(["diagnose", other, *line[2:]]) == 2
    assert "model" in capsys.readouterr().err
    assert main([*line, "--layers", "2", "--overwrite"]) == 0
    assert (here / "out" / "diagnosis.json").read_bytes() != first
    assert DiagnosisRecord.load(here / "out").provenance["layers"] == [2]


@pytest.mark.parametrize(
    "command, files",
    [
        (["diagnose", "MODEL"], ["diagnosis.json"]),
        (["latents", "MODEL", "--sae", "nowhere"], ["latents.html"]),
        (["compare-saes", "MODEL", "--saes", "nowhere"], ["saes.json"]),
        (["train-sae", "MODEL"], ["training.json"]),
        (["sweep", "MODEL", "nowhere", "--alphas", "1"], ["sweep.json"]),
    ],
)
def test_results_of_an_unknown_run_are_left_alone(
    command: list[str], files: list[str], table: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the model is loaded: there is none."""
    (here / "out").mkdir()
    for name in files:
        (here / "out" / name).write_text("precious")
    assert main([*command, "--data", str(table), "--out", "out"]) == 2
    assert f"out holds {files[0]} of an unknown run" in capsys.readouterr().err
    assert names(here / "out") == files and (here / "out" / files[0]).read_text() == "precious"


WRITING = {
    "diagnose": [],
    "train-sae": [],
    "latents": ["--sae", "nowhere"],
    "compare-saes": ["--saes", "nowhere"],
    "operate": ["nowhere"],
    "sweep": ["nowhere", "--alphas", "1"],
}
TYPOS = {
    "--data": "nowhere.csv",
    "--protocol": "papre",
    "--metrics": "categorcial",
    "--controls": "nul",
    "--layers": "1,,2",
    "--dtype": "float23",
    "--device": "cudda",
    "--limit": "many",
    "--match": "lenght",
    "--shares": "0.5,0.5",
    "--architecture": "topc",
    "--settings": "defalt",
    "--control": "shufled",
    "--positions": "al",
    "--form": "edti",
    "--out": "table.v1.jsonl/below",
    "--no-such": "option",
}


@pytest.mark.parametrize("command", WRITING)
def test_typos_leave_no_folder(
    command: str, tiny_folder: Path, table: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = cli.parser(command).parse_args([command, "MODEL", *WRITING[command]]).parser.options()
    tried = 0
    for option, typo in TYPOS.items():
        if option not in known and option != "--no-such":
            continue
        given = {
            "--data": str(table),
            "--device": "cpu",
            option: str(table.parent / typo) if option == "--out" else typo,
        }
        line = [command, str(tiny_folder), *WRITING[command], *(part for pair in given.items() for part in pair)]
        assert main(line) == 2, option
        told = capsys.readouterr().err
        assert told.startswith("sae-moral: ") and len(told.splitlines()) == 1, told
        assert names(here) == [], option
        tried += 1
    assert tried >= 6
    assert main([command, "no-such-model", *WRITING[command], "--data", str(table)]) == 2
    assert names(here) == []


def test_a_plan_with_a_typo_leaves_no_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "plan.yaml").write_text("data: nowhere.csv\nmodels: [{name: A, model: m0}]")
    for plan, message in (("plan.yaml", "nowhere.csv"), ("gone.yaml", "gone.yaml")):
        assert main(["atlas", plan]) == 2
        assert message in capsys.readouterr().err
    assert names(here) == ["plan.yaml"]


def test_files_are_not_replaced_without_being_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(here / "invented.tsv", rows=500)
    (here / "built.parquet").write_text("precious")
    for action in ("build", "sample"):
        assert main(["data", action, "invented.tsv", "--out", "built.parquet"]) == 2
        assert "built.parquet exists; choose another file, or give --overwrite" in capsys.readouterr().err
    assert (here / "built.parquet").read_text() == "precious"
    assert main(["data", "build", "invented.tsv", "--out", "built.parquet", "--overwrite"]) == 0
    assert main(["data", "build", "invented.tsv", "--out", "invented.tsv/built.parquet"]) == 2
    assert "invented.tsv is a file" in capsys.readouterr().err


def test_a_busy_folder_names_who_has_it(
    tiny_folder: Path, table: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with io.locked(here / "out"):
        assert main(["diagnose", str(tiny_folder), "--data", str(table), *QUICK, "--out", "out"]) == 4
    assert f"out is being written by process {os.getpid()}" in capsys.readouterr().err
    assert not (here / "out" / "run.json").exists()


def test_nothing_is_left_of_a_diagnosis_that_failed(
    tiny_folder: Path, table: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/diagnosis.json")

    line = ["diagnose", str(tiny_folder), "--data", str(table), *QUICK, "--out", "out"]
    with monkeypatch.context() as patch:
        patch.setattr(DiagnosisRecord, "save", full)
        assert main(line) == 3
    assert "the disk is full: out/diagnosis.json" in capsys.readouterr().err
    assert names(here) == []
    assert main(line) == 0


def killed_diagnoses(model: Path, table: Path, folder: Path, kills: int) -> None:
    def work(out: Path) -> None:
        assert main(["diagnose", str(model), "--data", str(table), *QUICK, "--out", str(out)]) == 0

    def whole_or_nothing() -> None:
        if (folder / "killed" / DiagnosisRecord.FILE).exists():
            DiagnosisRecord.load(folder / "killed")
            assert "</html>" in (folder / "killed" / "report.html").read_text(encoding="utf8")

    with one_thread():
        work(folder / "warm-up")
        started = time.perf_counter()
        work(folder / "uninterrupted")
        duration = time.perf_counter() - started
        rng, hit = random.Random(0), 0
        for _ in range(3 * kills):
            hit += kill(functools.partial(work, folder / "killed"), rng.uniform(0.2, 1) * duration)
            whole_or_nothing()
            if hit == kills:
                break
        assert hit == kills
        work(folder / "killed")
    expected, found = (DiagnosisRecord.load(folder / name) for name in ("uninterrupted", "killed"))
    assert found.rows == expected.rows and found.peaks == expected.peaks
    left = [name for name in names(folder / "killed") if not name.startswith(".lock")]
    assert left == ["diagnosis.json", "report.html", "run.json"]


def test_killed_diagnoses_leave_nothing_half(tiny_folder: Path, table: Path, tmp_path: Path) -> None:
    killed_diagnoses(tiny_folder, table, tmp_path / "work", 2)


@pytest.mark.slow
def test_diagnoses_killed_at_twenty_moments(tiny_folder: Path, table: Path, tmp_path: Path) -> None:
    killed_diagnoses(tiny_folder, table, tmp_path / "work", 20)


# Help


def help_of(capsys: pytest.CaptureFixture[str], *line: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*line, "--help"])
    assert ended.value.code == 0
    return re.sub(r"\s+", " ", capsys.readouterr().out)


@pytest.mark.parametrize(
    "command, expected",
    [
        ("diagnose", ["--protocol {paper,audited}", "(default: audited)", "--match {length}",
                      "(default: moralstrength)", "--dtype {float32,bfloat16,float16,fp32,bf16,fp16}",
                      "(default: float32)",
                      "selectivity, random-weights"]),
        ("train-sae", ["--granularity {scenario,token}", "--normalise {scale,standardise,centre,none}",
                       "--init {random,data}", "(default: topk)", "--target-l0 L0", "(default: 64)",
                       "(default: 0.003)"]),
        ("latents", ["--permutations", "(default: 3)", "--false-discovery", "(default: 0.05)"]),
        ("operate", ["--control {none,shuffled,random,no-surgery}", "--settings {default,paper,released}",
                     "--rule {audited,paper,released}", "--form {relative,paper,released}",
                     "--keep-norm, --no-keep-norm", "(default: 0.8,0.1,0.1)"]),
        ("steer", ["--positions {all-but-first,all,prompt,last,generated}", "(default: all-but-first)",
                   "--units {alpha,relative}", "--chat {auto,yes,no}", "--tokens N", "(default: 1)"]),
        ("sweep", ["--positions {all-but-first,all}", "--form A,B", "(default: write)", "(default: 19)"]),
    ],
)  # fmt: skip
def test_help_shows_choices_and_defaults(command: str, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, command)
    assert not [part for part in expected if part not in text], text


def test_help_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    assert all(command in text for command in (*COMMANDS, "flames", "exit status: 0 done", "130 interrupted"))
    for command in COMMANDS:
        assert f"example: sae-moral {command}" in help_of(capsys, command)


def test_every_option_is_explained() -> None:
    for command in COMMANDS:
        made = cli.parser(command)
        commands = next(one for one in made._actions if isinstance(one, argparse._SubParsersAction))
        for action in commands.choices[command]._actions:
            assert action.help or action.metavar == "ACTION", (command, action.dest)


# Data


def test_data_describes_a_table(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", str(table)]) == 0
    assert "care-harm" in capsys.readouterr().out


def test_a_table_with_other_columns(tiny_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"deed {i},{'care-harm' if i % 2 else 'loyalty-betrayal'},{i % 5 - 2},4,x\n" for i in range(40))
    path = here / "notes.csv"
    path.write_text(f"scenario,foundation,judgment,agreement,note\n{rows}", encoding="utf8")
    measured = ["diagnose", str(tiny_folder), "--data", str(path), "--layers", "0", "--controls", "none"]
    assert main(measured) == 2 and "--text-column" in capsys.readouterr().err
    named = [*measured, "--text-column", "scenario"]
    assert main(named) == 2 and "--extra-columns ignore" in capsys.readouterr().err
    assert main([*named, "--extra-columns", "ignore", "--dtype", "bf16"]) == 0
    [folder] = here.glob("diagnosis-*")
    assert DiagnosisRecord.load(folder).provenance["model"]["dtype"] == "bfloat16"


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


@pytest.mark.parametrize("format", ["png", "svg", "pdf"])
def test_a_figure_is_drawn_from_a_file_alone(here: Path, format: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = RESULTS / "audited-all.json"
    line = ["figure", str(result), "--metric", "gradient", "--width", "3.3", "--format", format]
    assert main(line) == 0
    assert capsys.readouterr().out == f"audited-all-gradient.{format}\n"
    (drawn,) = here.iterdir()
    content = drawn.read_bytes()
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[format])
    assert main(line) == 2 and "exists; choose another file, or give --overwrite" in capsys.readouterr().err
    assert main([*line, "--overwrite"]) == 0 and drawn.read_bytes() == content


def test_a_figure_that_cannot_be_drawn_leaves_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = str(RESULTS / "audited.json")
    for line, problem in (
        ([result, "--metric", "gradeint"], "unknown metric 'gradeint'; did you mean 'gradient'"),
        ([result, "--format", "bmp"], "unknown format 'bmp'; valid: png, svg, pdf"),
        ([result, "--out", "a.bmp"], "unknown figure format 'bmp'"),
        ([result, "--out", "a.svg", "--format", "pdf"], "a file that ends with .svg"),
        ([result, "--width", "1"], "a figure 1 inches wide; expected 2 to 100"),
        ([str(here)], "no result in this folder"),
        (["nowhere"], "nowhere: No such file"),
        ([__file__], "not a result of sae-moral"),
    ):
        assert main(["figure", *line]) == 2
        assert problem in capsys.readouterr().err
    assert list(here.iterdir()) == []
    assert main(["data", "info", "scenarios-400", "--figure", "a.bmp"]) == 2
    assert "unknown figure format 'bmp'" in capsys.readouterr().err


def test_offline_without_the_table_says_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAE_MORAL_CACHE", str(tmp_path))
    assert main(["data", "verify", "--offline"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
