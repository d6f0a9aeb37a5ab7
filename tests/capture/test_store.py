"""The store: same numbers as memory, resumes to identical bytes, refuses what does not fit."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sae_moral import diagnose
from sae_moral.capture import capture, load_model
from sae_moral.capture import run as capture_run
from sae_moral.capture.store import Store, reopen, save_index
from sae_moral.errors import DataError
from sae_moral.io import LOCK, read_record, write_record
from tests.conftest import bundled
from tests.forks import forked, killed_until, one_thread
from tests.tiny import save_tiny_model, scenarios

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
HOLD = """
import sys
from sae_moral.io import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder but the lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK)
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
    monkeypatch.setattr("sae_moral.capture.run.read_prompts", None)
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
    loaded, text = load_model(model, device="cpu"), scenarios(n).text

    def work(name: str) -> None:
        capture(loaded, text, tokens_per_batch=64, store=folder / name)

    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae_moral.capture.store.SECONDS_BETWEEN_SYNCS", 0.02)
        started = time.perf_counter()
        work("uninterrupted")
        duration = time.perf_counter() - started
        again = functools.partial(shutil.rmtree, folder / "killed")
        killed_until(lambda: work("killed"), KILLS, seed, 0, duration / 8, done=again)
        work("killed")
    assert contents(folder / "killed") == contents(folder / "uninterrupted")
    assert set(Path(name).name for name in contents(folder / "killed")) >= {"store.json", "layer_000.safetensors"}


def test_killed_ten_times_the_bytes_and_the_diagnosis_are_the_same(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    run_killed(str(folder), tmp_path, 1200, seed=1)
    data = scenarios(1200)
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

    real, seen = run.forward_run, []

    @contextmanager
    def counting(*arguments: Any) -> Iterator[Callable[[Any], Any]]:
        with real(*arguments) as forward:

            def count(tokens: Any) -> Any:
                seen.append(tokens)
                if len(seen) == 5:
                    raise KeyboardInterrupt
                return forward(tokens)

            yield count

    monkeypatch.setattr(run, "forward_run", counting)
    with pytest.raises(KeyboardInterrupt):
        capture(tiny, text, tokens_per_batch=32, store=tmp_path / "a")
    _, progress = read_record(the_store(tmp_path / "a") / "progress.json", "capture-progress", 2)
    assert 0 < progress["rows"] < len(set(text))
    capture(tiny, text, tokens_per_batch=32, store=tmp_path / "a")
    interrupted = len(seen)
    seen[:] = [None] * 10
    capture(tiny, text, tokens_per_batch=32, store=tmp_path / "b")
    assert interrupted == len(seen) - 10 + 1  # every batch once, and the one that was interrupted
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_store_in_use_is_waited_for(tiny: Any, tmp_path: Path) -> None:
    text = scenarios(10).text
    capture(tiny, text, store=tmp_path)
    folder = the_store(tmp_path)
    (folder / "store.json").unlink()
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        let_go = threading.Timer(1.0, other.communicate, ["go\n"])
        let_go.start()
        started = time.monotonic()
        capture(tiny, text, store=tmp_path)
        assert time.monotonic() - started > 0.9
        let_go.join()


@pytest.mark.parametrize("granularity", ["scenario", "token"])
@pytest.mark.parametrize("kill", [False, True])
def test_processes_that_capture_in_shards_write_the_bytes_of_one(
    kill: bool, granularity: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, how = scenarios(60).text, {"tokens_per_batch": 32, "granularity": granularity}
    capture(tiny, text, store=tmp_path / "a", **how)
    monkeypatch.setattr("sae_moral.capture.store._ROWS", 7)
    log, run = tmp_path / "log", capture_run.forward_run

    @contextmanager
    def noted(*args: Any) -> Iterator[Any]:
        with run(*args) as forward:

            def one(tokens: Any) -> Any:
                with log.open("a") as file:
                    file.write("batch\n")
                return forward(tokens)

            yield one

    monkeypatch.setattr(capture_run, "forward_run", noted)
    capture(tiny, text, store=tmp_path / "c", **how)
    batches = len(log.read_text().splitlines())
    log.unlink()
    with one_thread():
        crew = [forked(lambda: capture(tiny, text, store=tmp_path / "b", shards=5, **how)) for _ in range(3)]
        if kill:
            while not list((tmp_path / "b").glob("*/shards/*/store.json")):
                time.sleep(0.001)
            crew[0].kill()
    for one in crew:
        one.join()
    assert [one.exitcode for one in crew[kill:]] == [0] * (3 - kill)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    if not kill:
        assert len(log.read_text().splitlines()) == batches
    capture(tiny, text, store=tmp_path / "b", shards=3, **how)  # it is there
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not list((tmp_path / "b").rglob(".*"))


def test_layer_file_cut_short_is_refused(tiny: Any, tmp_path: Path) -> None:
    text = scenarios(10).text
    capture(tiny, text, store=tmp_path)
    path = the_store(tmp_path) / "layer_001.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"layer_001.safetensors: not the layer file this store laid out"):
        capture(tiny, text, store=tmp_path)[1]


def test_too_little_disk_is_said_before_anything_is_written(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_moral.io import files

    real, seen = files.reserve, []

    def reserve(file: Any, size: int) -> None:
        seen.append(size)
        if len(seen) == 3:
            raise OSError(28, "0.00 GB free and 0.01 GB needed", file.name)
        real(file, size)

    monkeypatch.setattr(files, "reserve", reserve)
    with pytest.raises(OSError, match="GB needed"):
        capture(tiny, scenarios(10).text, store=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    monkeypatch.undo()
    capture(tiny, scenarios(10).text, store=tmp_path)


def test_store_with_active_hooks_is_refused(tiny: Any, tmp_path: Path) -> None:
    with (
        tiny.hooks(fwd_hooks=[("blocks.0.hook_out", lambda h, hook: h)]),
        pytest.raises(ValueError, match="hooks are active"),
    ):
        capture(tiny, ["hugging"], store=tmp_path)


class Flaky:
    """A file that takes a part of what it is given, or nothing more for a while."""

    def __init__(self, file: Any, *, full: bool) -> None:
        self.file, self.full, self.writes = file, full, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: Any) -> int:
        self.writes += 1
        if self.full and self.writes == 8:
            return 0  # what RawIOBase.write says of a full disk; later writes have space again
        return self.file.write(memoryview(content)[: max(1, len(content) // 3)])


@pytest.mark.parametrize("full", [False, True])
def test_short_writes_never_leave_a_store_with_other_content(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    from sae_moral.capture import store

    text, real = scenarios(100).text, store.open_in_place
    memory = capture(tiny, text, tokens_per_batch=64)
    with monkeypatch.context() as patch:
        patch.setattr(store, "open_in_place", lambda *args, **kw: Flaky(real(*args, **kw), full=full))
        if full:
            with pytest.raises(OSError, match="is the disk full"):
                capture(tiny, text, tokens_per_batch=64, store=tmp_path)
            assert not (the_store(tmp_path) / "store.json").exists()
        else:
            capture(tiny, text, tokens_per_batch=64, store=tmp_path)
    disk = capture(tiny, text, tokens_per_batch=64, store=tmp_path)
    for layer in memory.layers:
        assert torch.equal(memory[layer], disk[layer])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_and_empties_again(tiny: Any, small_disk: Path) -> None:
    text = scenarios(100).text
    memory, ballast = capture(tiny, text), small_disk / "ballast"
    ballast.write_bytes(bytes(50_000))
    with pytest.raises(OSError, match=r"0\.00 GB free and 0\.00 GB needed"):
        capture(tiny, text, store=small_disk / "stores")
    assert not list(small_disk.rglob("*.safetensors")) and not list(small_disk.rglob("store.json"))
    ballast.unlink()
    disk = capture(tiny, text, store=small_disk / "stores")
    for layer in memory.layers:
        assert torch.equal(memory[layer], disk[layer].clone())
    del disk


def test_writes_that_the_disk_lost_are_noticed(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that says it succeeded and did not: the rows stay zero, as a file with a hole reads."""
    from sae_moral.capture import store

    real, text = store.write_all, scenarios(60).text
    lost = []

    def losing(file: Any, content: Any) -> None:
        if len(content) > 1000 and not lost:
            lost.append(len(content))
        else:
            real(file, content)

    monkeypatch.setattr(store, "write_all", losing)
    with pytest.raises(DataError, match="its vectors are not those that were written"):
        capture(tiny, text, store=tmp_path)
    assert lost


@pytest.mark.parametrize("part", ["vectors", "sink"])
def test_one_changed_byte_is_noticed_once_per_process_and_file(
    tiny: Any, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = scenarios(30).text
    captured = capture(tiny, text, store=tmp_path)
    compared = []
    real = Store._compare
    monkeypatch.setattr(Store, "_compare", lambda self, *args: compared.append(args) or real(self, *args))
    for _ in range(3):
        captured[1]
    assert not compared
    path = the_store(tmp_path) / "layer_001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1 if part == "sink" else 300] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"layer_001.safetensors: its vectors are not those that were written"):
        captured[1]
    captured[0]
    with pytest.raises(DataError, match="not those that were written"):
        capture(tiny, text, store=tmp_path)


def test_damage_to_what_was_written_before_an_interruption_is_noticed(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_moral.capture.store.SECONDS_BETWEEN_SYNCS", 0.0)
    from sae_moral.capture import run

    real, seen = run.read_prompts, []

    def interrupted(model: Any, prompts: Any, layers: Any, reader: Any, take: Any, **options: Any) -> None:
        def stop(start: int, batch: Any) -> None:
            seen.append(start)
            if len(seen) == 4:
                raise KeyboardInterrupt
            take(start, batch)

        real(model, prompts, layers, reader, stop, **options)

    text = scenarios(100).text
    with monkeypatch.context() as patch:
        patch.setattr(run, "read_prompts", interrupted)
        with pytest.raises(KeyboardInterrupt):
            capture(tiny, text, tokens_per_batch=32, store=tmp_path)
    path = the_store(tmp_path) / "layer_002.safetensors"
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"layer_002.safetensors: its vectors are not those that were written"):
        capture(tiny, text, tokens_per_batch=32, store=tmp_path)


@pytest.mark.parametrize("file", ["store.json", "progress.json"])
def test_a_damaged_record_is_named(tiny: Any, tmp_path: Path, file: str) -> None:
    text = scenarios(10).text
    capture(tiny, text, store=tmp_path)
    folder = the_store(tmp_path)
    if file == "progress.json":
        (folder / "store.json").rename(folder / file)
    for content in ("", "[" * 1500, "{}", (folder / file).read_text().replace("3", "4", 1)):
        (folder / file).write_text(content)
        with pytest.raises(DataError, match=file):
            capture(tiny, text, store=tmp_path)


def test_the_pooling_that_a_user_wrote_is_in_the_key_by_what_it_does(tiny: Any, tmp_path: Path) -> None:
    text = scenarios(20).text
    first, last = (lambda tokens, by=by: (tokens.own & (tokens.own.cumsum(1) == by)).float() for by in (1, 2))
    text = [one for one in text if len(one.split()) > 2]
    stored = [capture(tiny, text, pooling=pooling, store=tmp_path) for pooling in (first, last)]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2
    for pooling, found in zip((first, last), stored, strict=True):
        assert torch.equal(found[1], capture(tiny, text, pooling=pooling)[1])


@pytest.mark.parametrize("name", ["rope_theta", "rms_norm_eps", "hidden_act"])
def test_a_changed_configuration_does_not_read_the_old_vectors(
    tiny: Any, tiny_folder: Path, tmp_path: Path, name: str
) -> None:
    text = scenarios(20).text
    old = capture(tiny, text, store=tmp_path / "stores")
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    values = {"rope_theta": ("10000.0", "10.0"), "rms_norm_eps": ("1e-06", "1e-01"), "hidden_act": ('"silu"', '"relu"')}
    before, after = values[name]
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace(f'"{name}": {before}', f'"{name}": {after}'))
    changed = load_model(folder, device="cpu")
    found = capture(changed, text, store=tmp_path / "stores")
    assert torch.equal(found[2], capture(changed, text)[2])
    assert not torch.allclose(found[2], old[2], atol=1e-3)


def test_tokens_are_stored_as_they_are_held(tiny: Any, tmp_path: Path) -> None:
    text = scenarios(30).text
    memory = capture(tiny, text, granularity="token")
    disk = capture(tiny, text, granularity="token", store=tmp_path)
    assert memory.first is not None and disk.first is not None
    assert torch.equal(memory.read(1), disk.read(1)) and (memory.first == disk.first).all()
    pooled = capture(tiny, text)
    for row in range(len(set(text))):
        own = memory.read(1)[memory.first[row] : memory.first[row + 1]]
        torch.testing.assert_close(own.mean(dim=0), pooled.read(1)[row])
    with pytest.raises(ValueError, match="vectors of single tokens"):
        memory[1]
    with pytest.raises(ValueError, match="did you mean 'token'"):
        capture(tiny, text, granularity="tokens")


@pytest.mark.parametrize("granularity", ["scenario", "token"])
def test_bfloat16_takes_half_the_space_and_rounds_as_torch_does(tiny: Any, tmp_path: Path, granularity: str) -> None:
    text, how = scenarios(31).text, {"granularity": granularity, "tokens_per_batch": 32}
    exact, whole = capture(tiny, text, **how), capture(tiny, text, store=tmp_path / "whole", **how)
    half = capture(tiny, text, store=tmp_path / "half", store_dtype="bfloat16", **how)
    for layer in exact.layers:
        assert torch.equal(half.read(layer), exact.read(layer).bfloat16().float())
    assert half.provenance["store_rounding"] >= float(((half.read(1) - exact.read(1)) / exact.read(1)).abs().max())
    assert half.provenance["store"] != whole.provenance["store"] and "store_dtype" not in whole.provenance
    large, small = (the_store(tmp_path / name) / "layer_001.safetensors" for name in ("whole", "half"))
    assert small.stat().st_size < 0.6 * large.stat().st_size
    kept = load_file(small)
    assert kept["vectors"].dtype == torch.bfloat16
    if granularity == "scenario":
        assert torch.equal(kept["sink"], load_file(large)["sink"])
    save_index(half, tmp_path / "index.json")
    opened = reopen(tmp_path / "index.json", tmp_path / "half")
    assert torch.equal(opened.read(1), half.read(1))
    capture(tiny, text, store=tmp_path / "shards", store_dtype="bfloat16", shards=3, **how)
    assert contents(tmp_path / "shards") == contents(tmp_path / "half")


def test_another_dtype_of_a_store_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown store_dtype 'bf16'; did you mean 'bfloat16'"):
        capture(tiny, scenarios(5).text, store=tmp_path, store_dtype="bf16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("granularity", ["scenario", "token"])
def test_a_store_is_reopened_without_the_model(tiny: Any, tmp_path: Path, granularity: str) -> None:
    text = scenarios(30).text
    captured = capture(tiny, text, store=tmp_path, granularity=granularity)
    save_index(captured, tmp_path / "index.json")
    opened = reopen(tmp_path / "index.json", tmp_path)
    assert opened.layers == captured.layers and opened.provenance == captured.provenance
    assert all(torch.equal(opened.read(layer), captured.read(layer)) for layer in captured.layers)
    assert all((getattr(opened, name) == getattr(captured, name)).all() for name in ("row", "length", "total"))
    assert (opened.first is None) == (captured.first is None)
    store = tmp_path / captured.provenance["store"] / "store.json"
    whole = store.read_text()
    store.write_text(whole.replace('"prepend"', '"tokenizer"'))
    with pytest.raises(DataError, match=r"store\.json: damaged, or changed by hand"):
        reopen(tmp_path / "index.json", tmp_path)
    store.write_text(whole)
    kind, (_, content) = "capture-store", read_record(store, "capture-store", 2)
    write_record(store, kind, 2, {**content, "shaped_by": {**content["shaped_by"], "bos": "tokenizer"}})
    with pytest.raises(DataError, match=r"store\.json: was changed"):
        reopen(tmp_path / "index.json", tmp_path)
    store.unlink()
    with pytest.raises(FileNotFoundError, match="capture again"):
        reopen(tmp_path / "index.json", tmp_path)
    (tmp_path / "index.json").write_text(whole)
    with pytest.raises(DataError, match=r"index\.json"):
        reopen(tmp_path / "index.json", tmp_path)
    with pytest.raises(ValueError, match="store=FOLDER"):
        save_index(capture(tiny, text), tmp_path / "index.json")
