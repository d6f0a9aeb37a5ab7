"""The store: same numbers as memory, resumes to identical bytes, refuses what does not fit."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from sae_moral import diagnose
from sae_moral.capture import capture, load_model
from sae_moral.capture.store import Store, store_key
from tests.conftest import bundled
from tests.tiny import save_tiny_model, scenarios

ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder but the lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def the_store(folder: Path) -> Path:
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


def test_store_holds_what_memory_holds(tiny: Any, tmp_path: Path) -> None:
    text = scenarios(50).text
    memory, disk = capture(tiny, text), capture(tiny, text, store=tmp_path)
    for layer in memory.layers:
        assert torch.equal(memory[layer], disk[layer])
    files = load_file(the_store(tmp_path) / "layer_001.safetensors")  # an ordinary safetensors file
    assert files["vectors"].shape == (len(set(text)), 16)
    assert torch.equal(files["vectors"][torch.from_numpy(disk.row)], memory[1])


def test_complete_store_is_read_without_the_model_running(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = scenarios(20).text
    first = capture(tiny, text, store=tmp_path)
    monkeypatch.setattr("sae_moral.capture.run.body", None)
    assert torch.equal(capture(tiny, text, store=tmp_path)[0], first[0])


@pytest.mark.parametrize(
    "change", ["template", "pooling", "bos", "layers", "text", "tokens_per_batch", "weights", "dtype"]
)
def test_everything_that_shapes_the_numbers_is_in_the_key(
    change: str, tiny: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    text = list(scenarios(20).text)
    capture(tiny, text, store=tmp_path)
    settings: dict[str, Any] = {}
    match change:
        case "template":
            settings["template"] = "{text} is morally"
        case "pooling" | "bos" | "layers" | "tokens_per_batch":
            settings[change] = {"pooling": "last", "bos": "tokenizer", "layers": [1], "tokens_per_batch": 3}[change]
        case "text":
            text[0] = "hugging hugging hugging"
        case "weights":
            with torch.no_grad():
                next(parameter for name, parameter in tiny.named_parameters() if "mlp" in name).view(-1)[7] += 1e-3
        case "dtype":
            tiny = load_model(tiny_folder, dtype="bfloat16", device="cpu")
    capture(tiny, text, store=tmp_path, **settings)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_same_weights_loaded_twice_share_a_store(tiny: Any, tiny_folder: Path, tmp_path: Path) -> None:
    text = scenarios(20).text
    for model in (tiny, load_model(tiny_folder, device="cpu")):
        capture(model, text, store=tmp_path)
    the_store(tmp_path)


def run_killed(model: str, folder: Path, n: int, seed: int) -> None:
    command = [sys.executable, "-m", "tests.capture.killed", model, str(folder), str(n), "10", str(seed)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 8  # kills must hit a running capture for the test to mean anything
    assert contents(folder / "killed") == contents(folder / "uninterrupted")
    assert set(Path(name).name for name in contents(folder / "killed")) >= {"store.json", "layer_000.safetensors"}


def test_killed_ten_times_the_bytes_and_the_diagnosis_are_the_same(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    run_killed(str(folder), tmp_path, 3000, seed=1)
    data = scenarios(3000)
    killed, whole = (
        diagnose(str(folder), data, store=tmp_path / name, metrics=["categorical"], controls="none")
        for name in ("killed", "uninterrupted")
    )
    assert killed.rows == whole.rows


@pytest.mark.slow
def test_killed_ten_times_on_a_real_model(tmp_path: Path) -> None:
    bundled("smollm2-135m-instruct")
    run_killed("smollm2-135m-instruct", tmp_path, 400, seed=2)


def test_interrupted_store_is_taken_up_where_it_ended(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_moral.capture.store.SECONDS_BETWEEN_SYNCS", 0.0)
    text = scenarios(100).text
    from sae_moral.capture import run

    real, seen = run.body, []

    @contextmanager
    def counting(*arguments: Any) -> Iterator[Callable[[Any], Any]]:
        with real(*arguments) as forward:

            def count(tokens: Any) -> Any:
                seen.append(tokens)
                if len(seen) == 5:
                    raise KeyboardInterrupt
                return forward(tokens)

            yield count

    monkeypatch.setattr(run, "body", counting)
    with pytest.raises(KeyboardInterrupt):
        capture(tiny, text, tokens_per_batch=32, store=tmp_path / "a")
    assert json.loads((the_store(tmp_path / "a") / "progress.json").read_text()) == {"batches": 4}
    capture(tiny, text, tokens_per_batch=32, store=tmp_path / "a")
    interrupted = len(seen)
    seen[:] = [None] * 10
    capture(tiny, text, tokens_per_batch=32, store=tmp_path / "b")
    assert interrupted == len(seen) - 10 + 1  # every batch once, and the one that was interrupted
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_store_in_use_is_refused(tiny: Any, tmp_path: Path) -> None:
    text = scenarios(10).text
    capture(tiny, text, store=tmp_path)
    folder = the_store(tmp_path)
    (folder / "store.json").unlink()
    with FileLock(folder / ".lock"), pytest.raises(RuntimeError, match="another process is writing"):
        capture(tiny, text, store=tmp_path)


def test_layer_file_cut_short_is_refused(tiny: Any, tmp_path: Path) -> None:
    text = scenarios(10).text
    capture(tiny, text, store=tmp_path)
    path = the_store(tmp_path) / "layer_001.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="is not the layer file this store laid out"):
        capture(tiny, text, store=tmp_path)[1]


def test_too_little_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    store = Store(tmp_path, {}, (0, 1), (1000, 64))
    with pytest.raises(OSError, match="GB free and the store needs"):
        store.open()
    assert not list(store.folder.glob("*.safetensors"))


def test_store_with_active_hooks_is_refused(tiny: Any, tmp_path: Path) -> None:
    with (
        tiny.hooks(fwd_hooks=[("blocks.0.hook_out", lambda h, hook: h)]),
        pytest.raises(ValueError, match="hooks are active"),
    ):
        capture(tiny, ["hugging"], store=tmp_path)


def test_key_ignores_the_order_of_parameters() -> None:
    assert store_key({"a": 1, "b": [2]}) == store_key({"b": [2], "a": 1}) != store_key({"a": 1, "b": [3]})
