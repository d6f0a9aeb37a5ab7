"""What `export` wrote, as the callable that vllm-lens runs on the residual stream of a request.

vllm-lens calls `fn(ctx, hidden)` for every request at every forward pass of the engine, with the positions [n, d] of
that request which the pass computes: a prompt, a part of one, or a token that was just generated. It does not say which
positions those are. `ServedEdit` finds the first: a request's passes begin with it (vllm-lens reads no prefix cache for
requests with hooks), and it comes back when the engine drops a request's cache and computes it again. The first row is
then the one seen before, since the first position attends to itself alone. Where that is mistaken (a second BOS that
begins a part of a prompt, a request computed again by a single position at first), `check` finds `seen` wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

KIND = "sae_moral served arm 1"
"""Of the file: `kind` in its metadata, beside `edits`, a JSON list with an entry for each edit."""


class ServedEdit:
    """One edit of an arm; calling it never raises, as vllm-lens would skip all requests of the pass.

    It leaves in `ctx.saved`, which comes back as `hook_results`: `seen`, positions that have passed; `failed`, why
    something was left unsteered; `first`, the stream at the first position.

    Attributes:
        about: layer, alpha, units, positions, and how the term is computed.

    Raises:
        ValueError: not an exported arm, or another file than the one of that hash.
    """

    def __init__(
        self, path: str | Path, number: int = 0, alpha: float | None = None, sha256: str | None = None
    ) -> None:
        self.path, self.number, self.sha256 = str(path), number, sha256 or hash_of(path)
        about = read_arm(self.path, self.sha256)[0][number]
        self.about = about if alpha is None else {**about, "alpha": float(alpha)}

    def __reduce__(self) -> tuple[Any, ...]:
        # By reference: code would not travel between versions of Python, and the server has the file.
        return ServedEdit, (self.path, self.number, self.about["alpha"], self.sha256)

    def __repr__(self) -> str:
        return f"{self.sha256[:16]}.{self.number}×{self.about['alpha']!r}"

    def __call__(self, ctx: Any, hidden: Tensor) -> Tensor | None:
        """The steered stream [n, d] of one request in one pass; None where it is left as it is."""
        try:
            steered = self._steered(ctx, hidden)
        except Exception as error:
            ctx.saved["failed"] = f"layer {ctx.layer_idx}: {error!s:.300}"
            return None
        ctx.saved["seen"] += len(hidden)
        return steered

    def _steered(self, ctx: Any, hidden: Tensor) -> Tensor:
        if ctx.layer_idx != self.about["layer"]:
            raise ValueError(f"an edit of layer {self.about['layer']}; expected to be called there")
        if _begins(ctx.saved, hidden):
            ctx.saved["seen"] = 0
        added = self.about["alpha"] * self._sized(hidden)
        if ctx.saved["seen"] == 0 and self.about["positions"] == "all-but-first":
            added = torch.cat([torch.zeros_like(added[:1]), added[1:]])
        if not torch.isfinite(added).all():
            raise ValueError(f"values that are not finite; use a smaller |alpha| than {abs(self.about['alpha'])}")
        return hidden + added.to(hidden.dtype)

    def _sized(self, hidden: Tensor) -> Tensor:
        """The term in the units of α, in float32."""
        term = self.term(hidden).float()
        if self.about["units"] == "alpha":
            return term
        size = torch.linalg.vector_norm(term, dim=-1, keepdim=True)
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
        return torch.where(size > 0, term * (length / size), 0.0)

    def term(self, hidden: Tensor) -> Tensor:
        """What is added at α = 1 [n, d]: gates of each token × rows."""
        own = _tensors(self.path, self.sha256, self.number, hidden.device)
        if "vector" in own:
            return own["vector"].expand(hidden.shape)
        x, scale = _normalised(hidden.to(own["W_enc"].dtype), self.about["normalize"])
        term = (_gates(x - own["shift"], own, self.about["gates"]) @ own["rows"]) * scale
        if "unit" in own:
            return torch.linalg.vector_norm(term.float(), dim=-1, keepdim=True) * own["unit"]
        return term


def _begins(saved: dict[str, Any], hidden: Tensor) -> bool:
    """Whether a pass starts at a request's first position."""
    if "first" not in saved:
        saved["first"] = hidden[0].clone()
        return True
    if len(hidden) == 1:  # a token that was generated, which may be a BOS
        return False
    # Rounding differs with what else is in the pass: by 0.5 % in bfloat16. Another token's row is 40 % away.
    near, first = max(1e-3, 8 * torch.finfo(hidden.dtype).eps), saved["first"].float()
    return bool((hidden[0].float() - first).norm() <= near * first.norm())


def _normalised(x: Tensor, how: str) -> tuple[Tensor, Tensor | float]:
    """The input of an SAE as SAELens scales it, and the factor that takes the scale back."""
    if how == "layer_norm":
        x = x - x.mean(dim=-1, keepdim=True)
        std = x.std(dim=-1, keepdim=True)
        return x / (std + 1e-5), std
    if how == "constant_norm_rescale":
        factor = x.shape[-1] ** 0.5 / x.norm(dim=-1, keepdim=True)
        return x * factor, 1 / factor
    return x, 1.0


def _gates(x: Tensor, own: Mapping[str, Tensor], how: str) -> Tensor:
    """Of the tokens, as SAELens computes latents; `linear` for a reader of the stream."""
    if how == "gated":
        active = (x @ own["W_enc"] + own["b_gate"] > 0).to(x.dtype)
        return active * torch.relu(x @ (own["W_enc"] * own["r_mag"].exp()) + own["b_mag"])
    before = x @ own["W_enc"] + own["b_enc"]
    if how == "jumprelu":
        return torch.relu(before) * (before > own["threshold"]).to(x.dtype)
    return {"linear": lambda: before, "standard": lambda: torch.relu(before)}[how]()


@lru_cache(maxsize=16)
def read_arm(path: str, sha256: str) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """What `export` wrote: of each edit what it is, and all tensors, `<number>.<name>`.

    Raises:
        ValueError: a file of something else, or with another hash.
    """
    if sha256 != (found := hash_of(path)):
        raise ValueError(f"{path} has the hash {found[:12]}… and {sha256[:12]}… was asked for; export it anew")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}); expected what export writes") from error
    if about.get("kind") != KIND:
        raise ValueError(f"{path} has the kind {about.get('kind')!r}; expected {KIND!r}, which export writes")
    return json.loads(about["edits"]), tensors


def hash_of(path: str | Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@lru_cache(maxsize=64)
def _tensors(path: str, sha256: str, number: int, device: torch.device) -> dict[str, Tensor]:
    named = {name.partition("."): value for name, value in read_arm(path, sha256)[1].items()}
    return {part: value.to(device) for (of, _, part), value in named.items() if of == str(number)}


def served_edits(arm: str | Path, alpha: float | None = None) -> list[ServedEdit]:
    """All edits of an exported arm.

    Raises:
        ValueError: not an exported arm.
    """
    path, sha256 = str(Path(arm).resolve()), hash_of(arm)
    return [ServedEdit(path, number, alpha, sha256) for number in range(len(read_arm(path, sha256)[0]))]
