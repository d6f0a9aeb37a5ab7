"""How well an SAE reconstructs: explained variance, L0, latents that ever fire, and the loss of the spliced model.

A high explained variance says nothing about morality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import TypedDict

from sae_moral.capture.agreement import check_agreement
from sae_moral.capture.models import hooked_model
from sae_moral.capture.prompts import prompts_of
from sae_moral.protocol import Protocol, get_protocol
from sae_moral.provenance import HookedModel
from sae_moral.sae.train_input import InputMap
from sae_moral.shown import shown

BATCH = 1024


class Side(TypedDict):
    """One side of a comparison of training with held-out vectors; None where these vectors do not vary."""

    explained_variance: float | None
    explained_variance_per_dimension: float | None
    l0: float
    n: int


class Look(TypedDict):
    """Explained variance of both sides at a checkpoint, L0 of the held-out one, and the coefficients of the losses."""

    step: int
    train: float | None
    held_out: float | None
    l0: float
    coefficients: dict[str, float]


class LossRecovered(TypedDict):
    """See `loss_recovered`; losses are in nats per token."""

    recovered: float | None
    clean_nats: float
    spliced_nats: float
    zero_nats: float
    n_tokens: int


@shown()
@dataclass(frozen=True)
class Reconstruction:
    """Of n vectors.

    Attributes:
        explained_variance: 1 − Σ|x − x̂|² / Σ|x − x̄|², x̄ the mean of these vectors. A rogue dimension with most of
            the variance decides it.
        explained_variance_per_dimension: the same in each dimension by itself, averaged: every dimension counts alike.
        l0: mean number of active latents.
        fired: latents that were active at least once.
        n: vectors.
    """

    explained_variance: float
    explained_variance_per_dimension: float
    l0: float
    fired: Bool[np.ndarray, "d_sae"]
    n: int

    def side(self) -> Side:
        """The numbers that are kept."""
        return Side(
            explained_variance=_number(self.explained_variance),
            explained_variance_per_dimension=_number(self.explained_variance_per_dimension),
            l0=self.l0,
            n=self.n,
        )


@torch.no_grad()
def reconstruction(
    sae: Any, vectors: Float[np.ndarray, "_ d"], rows: Int[np.ndarray, "n"], apply: InputMap | None = None
) -> Reconstruction:
    """Encode and decode the vectors at `rows`, batch by batch, sums in float64.

    Args:
        sae: an SAELens SAE; one in training is fed what the trainer feeds it, `apply(x)`, and compared in raw units.

    Raises:
        ValueError: no rows.
    """
    if len(rows) == 0:
        raise ValueError("no vectors to reconstruct; expected at least one")
    d = vectors.shape[1]
    error, total, square, active = np.zeros(d), np.zeros(d), np.zeros(d), 0.0
    fired = np.zeros(sae.cfg.d_sae, dtype=bool)
    shift = vectors[rows[0]].astype(np.float64)  # a mean far from 0 would cost digits
    for start in range(0, len(rows), BATCH):
        x = torch.from_numpy(np.ascontiguousarray(vectors[rows[start : start + BATCH]]))
        latents = sae.encode((x if apply is None else apply(x)).to(sae.device))
        latents = latents.to_dense() if latents.is_sparse else latents
        out = sae.decode(latents).float().cpu()
        out = out if apply is None else apply.inverse(out)
        on = latents != 0
        fired |= on.any(dim=0).cpu().numpy()
        active += float(on.sum())
        moved = x.double().numpy() - shift
        error += (x - out).double().square().sum(dim=0).numpy()
        total += moved.sum(axis=0)
        square += np.square(moved).sum(axis=0)
    spread = square - np.square(total) / len(rows)
    varies = spread > 1e-12 * max(spread.max(), 1e-300)
    return Reconstruction(
        explained_variance=1 - float(error.sum() / spread.sum()) if varies.any() else float("nan"),
        explained_variance_per_dimension=float(np.mean(1 - error[varies] / spread[varies]))
        if varies.any()
        else float("nan"),
        l0=active / len(rows),
        fired=fired,
        n=len(rows),
    )


@torch.no_grad()
def loss_recovered(
    model: HookedModel | nn.Module,
    sae: Any,
    text: Sequence[str],
    *,
    protocol: str | Protocol = "audited",
    tokens_per_batch: int = 1024,
) -> LossRecovered:
    """What of the model's next-token loss survives when the SAE's reconstruction stands in for the residual stream.

    (zero − spliced) / (zero − clean), the `ce_loss_score` of SAELens' evals, with the three losses in nats per token.
    Replaced, and scored, are the scenario's own tokens; BOS and the template's words pass unchanged. None where setting
    the stream to zero does no harm.

    Args:
        model: as the SAE was trained on; the hook is `sae.cfg.metadata.hook_name`.
        text: held-out scenarios.
        protocol: its template and BOS.
    """
    chosen, model = get_protocol(protocol), hooked_model(model)
    check_agreement(model)
    prompts = prompts_of(model, text, template=chosen.template, bos=chosen.bos)
    losses = dict.fromkeys(("clean", "spliced", "zero"), 0.0)
    name, count = sae.cfg.metadata.hook_name, 0
    for batch in prompts.batches(tokens_per_batch):
        tokens = prompts.tokens(*batch, model.cfg.device or "cpu")
        scored = tokens.own[:, 1:]
        count += int(scored.sum())
        for kind in losses:
            hook = _replacement(sae, tokens.own, kind)
            with nullcontext() if kind == "clean" else model.hooks(fwd_hooks=[(name, hook)]):
                logits = model(tokens.ids, attention_mask=tokens.real.long(), return_type="logits")
            each = torch.nn.functional.cross_entropy(
                logits[:, :-1].float().transpose(1, 2), tokens.ids[:, 1:].to(logits.device), reduction="none"
            )
            losses[kind] += float(each[scored.to(each.device)].cpu().double().sum())
    mean = {kind: total / max(count, 1) for kind, total in losses.items()}
    harm = mean["zero"] - mean["clean"]
    recovered = (mean["zero"] - mean["spliced"]) / harm if harm > 0 else None
    return LossRecovered(
        recovered=recovered,
        clean_nats=mean["clean"],
        spliced_nats=mean["spliced"],
        zero_nats=mean["zero"],
        n_tokens=count,
    )


def _replacement(sae: Any, own: Bool[Tensor, "batch pos"], kind: str) -> Any:
    def hook(hidden: Tensor, hook: Any = None) -> Tensor:
        at = own.to(hidden.device)
        replaced = hidden.clone()
        x = hidden[at]
        new = torch.zeros_like(x) if kind == "zero" else sae.decode(sae.encode(x.to(sae.device, sae.dtype)))
        replaced[at] = new.to(hidden)
        return replaced

    return hook


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
