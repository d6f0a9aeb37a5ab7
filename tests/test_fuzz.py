"""Result files and plans with changed bytes: a reader returns what was written, or raises our error with the file.

Files with a checksum are never accepted with other content. Those of version 0.1 have none: there the error is ours,
whatever they hold.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_moral import DataError, Diagnosis
from sae_moral.errors import FolderError
from sae_moral.io import check_claim, claim, jsonable
from sae_moral.studies import Atlas, Sweep, read_plan
from sae_moral.studies.study import Cell, Study
from tests.test_io import damaged

FILES = Path(__file__).parent / "data_files" / "v0.1"
CELL = Cell("cell", {"a": 1}, lambda folder: {"values": [0.5, None, "x"]})
CLAIM: dict[str, Any] = {"model": "a", "layers": [1, 2], "protocol": {"name": "audited"}}
PLAN = """\
data: moralstrength
protocols: [audited, paper]
models:
  - {name: A, model: smollm2-135m-instruct, family: small, layers: "0:30:6"}
  - {name: B, model: gemma-3-270m, variant: base, dtype: bfloat16}
"""


def of_diagnosis(folder: Path) -> Any:
    found = Diagnosis.load(folder / "diagnosis.json")
    return jsonable([found.rows, found.peaks, found.verdicts, found.provenance])


def of_atlas(folder: Path) -> Any:
    found = Atlas.load(folder / "atlas.json")
    return jsonable([found.entries, found.similarities])


def of_sweep(folder: Path) -> Any:
    return jsonable(Sweep.load(folder / "sweep.json").rows)


def of_cell(folder: Path) -> Any:
    done = Study(folder, "study").read(CELL)
    return None if done is None else done.value


def of_claim(folder: Path) -> Any:
    check_claim(folder, "diagnosis", CLAIM)
    return CLAIM


def of_plan(folder: Path) -> Any:
    read_plan(folder / "plan.yaml")


def made(kind: str, folder: Path) -> Path:
    """A valid file of a kind in the folder."""
    if kind.endswith(" 0.1"):
        name = {"diagnosis 0.1": "no-overall", "atlas 0.1": "atlas", "sweep 0.1": "sweep"}[kind]
        path = folder / f"{kind.split()[0]}.json"
        path.write_bytes((FILES / f"{name}.json").read_bytes())
        return path
    if kind == "diagnosis":
        return Diagnosis.load(FILES / "no-overall.json").save(folder)
    if kind == "atlas":
        return Atlas.load(FILES / "atlas.json").save(folder)
    if kind == "sweep":
        Sweep.load(FILES / "sweep.json").save(folder)
        return folder / "sweep.json"
    if kind == "cell":
        (done,) = Study(folder, "study").run([CELL])
        assert done.folder is not None
        return done.folder / "cell.json"
    if kind == "claim":
        claim(folder, "diagnosis", CLAIM)
        return folder / "run.json"
    (folder / "plan.yaml").write_text(PLAN)
    return folder / "plan.yaml"


READERS: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "diagnosis": (of_diagnosis, True),
    "diagnosis 0.1": (of_diagnosis, False),
    "atlas": (of_atlas, True),
    "atlas 0.1": (of_atlas, False),
    "sweep": (of_sweep, True),
    "sweep 0.1": (of_sweep, False),
    "cell": (of_cell, True),
    "claim": (of_claim, True),
    "plan": (of_plan, False),
}


def fuzzed(kind: str, folder: Path, times: int) -> int:
    """Damage a file in many ways; returns how many of them were noticed."""
    read, checked = READERS[kind]
    path = made(kind, folder)
    content, right, noticed = path.read_bytes(), read(folder), 0
    for seed in range(times):
        path.write_bytes(damaged(content, random.Random(seed)))
        try:
            found = read(folder)
        except (DataError, FolderError) as error:
            assert str(path.parent if kind == "cell" else folder) in str(error), (seed, str(error))
            noticed += 1
        else:
            assert not checked or found == right, seed
    return noticed


@pytest.mark.parametrize("kind", READERS)
def test_no_damage_crashes_a_reader(kind: str, tmp_path: Path) -> None:
    assert fuzzed(kind, tmp_path, 60) > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_no_damage_of_many_crashes_a_reader(kind: str, tmp_path: Path) -> None:
    assert fuzzed(kind, tmp_path, 1_700) > 500
