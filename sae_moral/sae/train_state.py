"""The state of a training between two steps: SAELens' trainer taken apart into safetensors and a record, and put back.

SAELens' own checkpoints are pickles, are not written atomically, count one step too few when they are taken from inside
`fit`, and know nothing of the order of the data or of a coefficient that is steered.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_moral.errors import DataError
from sae_moral.io import check_files, file_checksums, read_record, staged, write_record
from sae_moral.sae.evaluate import Look

KIND, SCHEMA_VERSION = "sae_training_state", 2
RECORD, TENSORS = "state.json", "state.safetensors"
PREFIX = "step-"
_PLAIN = ("n_training_samples", "n_training_steps", "n_frac_active_samples", "started_fine_tuning")
_TENSORS = ("act_freq_scores", "n_forward_passes_since_fired")


def save_state(folder: Path, key: str, trainer: Any, position: int, history: list[Look], *, steps_done: int) -> Path:
    """Write a checkpoint beside the older ones, then delete those.

    Args:
        key: of everything that shapes the training.
        position: of `Batches`.
        history: what was measured so far.
        steps_done: completed optimiser steps; SAELens calls its checkpoint function before it counts the last one.
    """
    tensors: dict[str, Tensor] = {}
    state = {
        "trainer": {name: getattr(trainer, name) for name in (*_PLAIN, *_TENSORS)},
        "optimizer": trainer.optimizer.state_dict(),
        "lr_scheduler": trainer.lr_scheduler.state_dict(),
        "coefficients": {name: value.state_dict() for name, value in trainer.coefficient_schedulers.items()},
        "sae": dict(trainer.sae.state_dict()),
        "position": position,
        "history": history,
    }
    state["trainer"]["n_training_steps"] = steps_done
    packed = _pack(state, tensors, "")
    target = folder / f"{PREFIX}{steps_done:09d}"
    with staged(target) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / TENSORS)
        content = {"key": key, "state": packed, "files": file_checksums(temporary)}
        write_record(temporary / RECORD, KIND, SCHEMA_VERSION, content)
    for other in folder.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def load_state(folder: Path, key: str, trainer: Any) -> tuple[int, list[Look]]:
    """Put the newest checkpoint into a fresh trainer; the position of `Batches` and the history, or (0, []) where there
    is none with this key.

    Raises:
        DataError: a damaged checkpoint; delete it, and the training begins anew.
    """
    found = sorted(folder.glob(f"{PREFIX}*"))
    if not found:
        return 0, []
    _, content = read_record(found[-1] / RECORD, KIND, SCHEMA_VERSION, oldest=SCHEMA_VERSION)
    if content.get("key") != key:
        return 0, []
    check_files(found[-1], content["files"])
    try:
        # On the CPU: the optimiser moves its own tensors, and its step counters belong there.
        state = _unpack(content["state"], load_file(found[-1] / TENSORS))
        _restore(trainer, state)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(f"not a checkpoint of this training: {error!r:.200}; delete it", file=found[-1]) from error
    return state["position"], state["history"]


def _restore(trainer: Any, state: dict[str, Any]) -> None:
    trainer.sae.load_state_dict(state["sae"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.lr_scheduler.load_state_dict(state["lr_scheduler"])
    for name, value in state["coefficients"].items():
        trainer.coefficient_schedulers[name].load_state_dict(value)
    for name in _PLAIN:
        setattr(trainer, name, state["trainer"][name])
    for name in _TENSORS:
        setattr(trainer, name, state["trainer"][name].to(trainer.cfg.device))
    # A fresh trainer has all of its checkpoints before it, and would write the past ones at once.
    trainer.checkpoint_thresholds = [
        threshold for threshold in trainer.checkpoint_thresholds if threshold >= trainer.n_training_samples
    ]


def _pack(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """JSON, with the tensors moved to `tensors`; keys of a dict may be numbers, as an optimiser's are."""
    if isinstance(value, Tensor):
        # safetensors refuses tensors that share memory, as a parameter and its optimiser's view may.
        tensors[name] = value.detach().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, tensors, f"{name}/{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_pack(item, tensors, f"{name}/{i}") for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}; a checkpoint holds numbers, texts and tensors only")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    return [_unpack(item, tensors) for item in content]
