"""`export`: steerings as a file that a server can load without sae_moral."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_moral.io import write_bytes
from sae_moral.sae import LoadedSae
from sae_moral.sae.compatibility import ELEMENTWISE
from sae_moral.steering import Direction, Matched, Reader, Steering, Write, written
from sae_moral.steering.steering import WITHOUT_MASK
from sae_moral.surgery import Operation
from sae_moral_vllm.hook import KIND

Parts = tuple[dict[str, Any], dict[str, Tensor]]
"""How the term is computed (`gates`, `normalize`), and from which tensors."""


def export(steerings: Steering | Sequence[Steering], path: str | Path) -> Path:
    """Write an arm: what its steerings add, as one safetensors file. Several at one layer act in the order given.

    Raises:
        ValueError: none, positions that only a mask of the prompts tells, the paper's form (it needs the whole SAE), or
            an SAE whose latents compete.
    """
    from safetensors.torch import save

    chosen = [steerings] if isinstance(steerings, Steering) else list(steerings)
    if not chosen:
        raise ValueError("no steering to export; the baseline needs no file: request_body(None)")
    edits, tensors = [], {}
    for number, steering in enumerate(chosen):
        if steering.positions not in WITHOUT_MASK:
            raise ValueError(
                f"positions={steering.positions!r}: a server's hook is not told where the prompt ends; expected one of "
                f"{', '.join(WITHOUT_MASK)}"
            )
        about, parts = _parts(steering)
        edits.append({"name": steering.name, **steering.describe(), **about})
        tensors |= {f"{number}.{name}": value.detach().cpu().contiguous() for name, value in parts.items()}
    write_bytes(path, save(tensors, metadata={"kind": KIND, "edits": json.dumps(edits)}))
    return Path(path)


def _parts(steering: Steering) -> Parts:
    what = steering.what
    if isinstance(what, LoadedSae) or steering.form == "paper":
        raise ValueError(f"{steering.name}: the paper's form needs the whole SAE; expected form 'edit' or 'write'")
    if isinstance(what, Direction):
        return {}, {"vector": what.vector.float()}
    if isinstance(what, Matched):
        about, parts = _of_operation(what.operation, steering.form)
        unit = what.direction.vector.float()
        return about, {**parts, "unit": unit / unit.norm()}
    return _of_write(what) if isinstance(what, Write) else _of_operation(what, steering.form)


def _of_operation(operation: Operation, form: str) -> Parts:
    if form == "write":
        return _of_write(written(operation))
    about, own = _gates(operation)
    was = {**own, **operation.before}
    gates = {name: torch.cat([was[name], own[name]], dim=_axis(name)) for name in own if name not in ("W_dec", "shift")}
    return about, {**gates, "shift": own["shift"], "rows": torch.cat([-was["W_dec"], own["W_dec"]])}


def _of_write(write: Write) -> Parts:
    if isinstance(write.gate, Reader):
        weight, bias, rows = (x.float() for x in (write.gate.weight, write.gate.bias, write.rows))
        parts = {"W_enc": weight, "b_enc": bias, "shift": torch.zeros(len(weight)), "rows": rows}
        return {"gates": "linear", "normalize": "none"}, parts
    about, own = _gates(write.gate)
    return about, {**{name: value for name, value in own.items() if name != "W_dec"}, "rows": write.rows}


def _gates(operation: Operation) -> Parts:
    """The operated latents' own parameters after surgery, under SAELens' names."""
    sae, index = operation.sae.sae, operation.latents.to(operation.sae.sae.device)
    if operation.sae.architecture not in ELEMENTWISE:
        raise ValueError(
            f"latents of a {operation.sae.architecture} SAE compete, so that all of it would have to be served; "
            f"expected one of {', '.join(ELEMENTWISE)}"
        )
    state = sae.state_dict()
    own = {name: value.index_select(_axis(name), index) for name, value in state.items() if name != "b_dec"}
    about = {"gates": operation.sae.architecture, "normalize": sae.cfg.normalize_activations}
    return about, {**own, "shift": state["b_dec"] * sae.cfg.apply_b_dec_to_input}


def _axis(name: str) -> int:
    return 1 if name == "W_enc" else 0
