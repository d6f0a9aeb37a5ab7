"""What is saved is an ordinary SAELens folder, bit-identical but for the operated latents, and comes back whole."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_moral.errors import BusyError, DataError, FolderError
from sae_moral.io import locked
from sae_moral.sae.load import load_sae
from sae_moral.surgery import Operation, SurgeryRecord, operate
from sae_moral.surgery.operation import rows_of, with_rows
from tests.sae.killed import run
from tests.surgery.worlds import BY_DIMENSION, data, representations, sae

LATENTS = torch.tensor([3, 7, 40])


def operation(architecture: str = "standard", **config: Any) -> Operation:
    original = sae(architecture, **config)
    before = rows_of(original, LATENTS)
    moved = {name: value + 0.5 for name, value in before.items()}
    operated = with_rows(original, LATENTS, moved, "mine, operated", surgery={"control": "none"})
    record = SurgeryRecord(source=original.source, sha256={"before": original.sha256, "after": operated.sha256})
    return Operation(operated, LATENTS, before, {"care": [3], "harm": [7, 40]}, record)


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
def test_saelens_reads_it_and_everything_but_the_operated_latents_is_bit_identical(
    architecture: str, tmp_path: Path
) -> None:
    from sae_lens import SAE

    made = operation(architecture)
    made.original().sae.save_model(tmp_path / "before")
    folder = made.save(tmp_path / "after")
    before, after = (load_file(path / "sae_weights.safetensors") for path in (tmp_path / "before", folder))
    assert before.keys() == after.keys()
    others = torch.ones(48, dtype=torch.bool).index_fill(0, LATENTS, False)
    for name, value in before.items():
        if name in made.before:
            axis = 1 if name == "W_enc" else 0
            where = others.nonzero()[:, 0]
            assert torch.equal(value.index_select(axis, where), after[name].index_select(axis, where))
            assert not (value.index_select(axis, LATENTS) == after[name].index_select(axis, LATENTS)).any()
        else:
            assert torch.equal(value, after[name])
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(SAE.load_from_disk(folder)(x), made.sae.sae(x))


def test_loading_gives_back_what_was_saved_and_the_original(tmp_path: Path) -> None:
    made = operation(dtype="bfloat16")
    found = Operation.load(made.save(tmp_path / "operation"))
    assert (found.name, found.layer, found.hook_name) == ("mine, operated", 1, "blocks.1.hook_resid_post")
    assert found.sae.sha256 == made.sae.sha256 and found.original().sha256 == sae(dtype="bfloat16").sha256
    assert found.by_dimension == made.by_dimension and found.record == made.record
    assert all(torch.equal(found.before[name], value) for name, value in made.before.items())
    assert found.sae.trained_on["surgery"] == {"control": "none"}
    assert not found.original().trained_on


def test_a_folder_is_replaced_only_when_asked_and_only_by_an_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = operation().save(tmp_path / "operation")
    operation().save(folder)
    with pytest.raises(FolderError, match=r"holds another operation: before .*\(now .*or overwrite it"):
        operation("jumprelu").save(folder)
    monkeypatch.setattr(
        "sae_moral.surgery.operation.write_record", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        operation("jumprelu").save(folder, overwrite=True)
    monkeypatch.undo()
    assert Operation.load(folder).sae.architecture == "standard"
    files = {"cfg.json", "sae_weights.safetensors", "before.safetensors", "surgery.json", "operation.html"}
    assert [path.name for path in tmp_path.iterdir()] == ["operation"]
    assert {path.name for path in folder.iterdir()} == files
    operation("jumprelu").save(folder, overwrite=True)
    assert Operation.load(folder).sae.architecture == "jumprelu"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(FolderError, match=r"no operation \(notes\.txt"):
        operation().save(tmp_path / "mine", overwrite=True)
    with pytest.raises(FolderError, match="is a file"):
        operation().save(tmp_path / "mine" / "notes.txt")
    with locked(tmp_path / "taken"), pytest.raises(BusyError, match="is being written by"):
        operation().save(tmp_path / "taken")


def test_a_save_that_was_killed_halfway_is_noticed_and_completed(tmp_path: Path) -> None:
    whole = operation().save(tmp_path / "whole")
    half = tmp_path / "half"
    half.mkdir()
    for name in ("surgery.json", "cfg.json"):
        shutil.copy(whole / name, half / name)
    with pytest.raises(DataError, match=r"before\.safetensors: missing"):
        Operation.load(half)
    with pytest.raises(DataError, match=r"safetensors: missing"):
        load_sae(half)
    operation().save(half)
    assert all((half / path.name).read_bytes() == path.read_bytes() for path in whole.iterdir())


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    folder, rng = operation().save(tmp_path / "operation"), np.random.default_rng(0)
    for file in sorted(set(folder.iterdir()) - {folder / "operation.html"}):  # which nothing reads
        whole = file.read_bytes()
        for at in rng.integers(len(whole), size=12 if whole else 0).tolist():
            file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
            for read in (Operation.load, load_sae):
                with pytest.raises(DataError, match=re.escape(str(folder))):
                    read(folder)
        file.write_bytes(whole)
    Operation.load(folder)
    with pytest.raises(FileNotFoundError, match=r"no surgery\.json"):
        Operation.load(tmp_path)


def test_operations_of_version_0_1_load_and_their_weights_are_checked(tmp_path: Path) -> None:
    made = operation()
    folder = made.save(tmp_path / "operation")
    about = json.loads((folder / "surgery.json").read_text())
    files, _ = about.pop("files"), about.pop("checksum")
    old = {**about, "schema_version": 1, "before_sha256": files["before.safetensors"], "stopped": {}}
    (folder / "surgery.json").write_text(json.dumps(old))
    assert Operation.load(folder).record == made.record
    values = load_file(folder / "sae_weights.safetensors")
    values["W_enc"][0, 0] += 1
    save_file(values, folder / "sae_weights.safetensors")
    with pytest.raises(DataError, match=r"surgery\.json: the weights beside it are not those"):
        Operation.load(folder)
    (folder / "surgery.json").write_text(json.dumps({**old, "schema_version": 99}))
    with pytest.raises(DataError, match=r"surgery\.json: schema version 99"):
        Operation.load(folder)


def same_operation(killed: Path, whole: Path) -> None:
    """Every byte but the time taken."""
    for path in whole.iterdir():
        if path.name not in ("surgery.json", "operation.html"):
            assert path.read_bytes() == (killed / path.name).read_bytes(), path
    one, other = (dataclasses.replace(Operation.load(folder).record, seconds=0.0) for folder in (killed, whole))
    assert one == other


def killed_operation(folder: Path, kills: int, seed: int) -> None:
    """Operate on a few latents of a small SAE, and save the operation."""
    of, loaded = data(300), sae()
    vectors = representations(of)

    def work(out: Path) -> None:
        operate(loaded, BY_DIMENSION, vectors, of, epochs=4, batch=64).save(out)

    same_operation(*run(work, folder, kills, seed, within=1.1))


def test_a_killed_operation_is_repeated(tmp_path: Path) -> None:
    killed_operation(tmp_path, 2, seed=1)


@pytest.mark.slow
def test_an_operation_killed_twenty_times_ends_the_same(tmp_path: Path) -> None:
    killed_operation(tmp_path, 20, seed=2)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    made = operation()
    for change, message in (
        ({"latents": torch.tensor([7, 3, 40])}, "ascending, distinct"),
        ({"latents": torch.tensor([3, 7, 48])}, "from 0 to 47"),
        ({"latents": torch.tensor([3, 7])}, r"before: W_enc"),
        ({"by_dimension": {"caer": [3]}}, "did you mean 'care'"),
        ({"by_dimension": {"care": [4]}}, r"not operated: \[4\]"),
        ({"before": {}}, "W_enc is None"),
    ):
        fields = {name: getattr(made, name) for name in ("sae", "latents", "before", "by_dimension", "record")}
        with pytest.raises(ValueError, match=message):
            Operation(**{**fields, **change})


def test_an_operated_sae_can_be_operated_again() -> None:
    first = operation()
    again = with_rows(load_sae(first.sae.sae), LATENTS, first.before, "x", surgery={"control": "none"})
    assert again.sha256 == first.record.sha256["before"]
