"""A write that is trained through the frozen model: what to add, given when to add it.

The gates of a write stay, and so do the proportions among its rows. Trained is the one direction u that all rows write
along, after one block and at every token but the first:

    h ← h + q(h) · u,    q(h) = Σ_k q_k a_k(h)

with a_k the gates, and q_k row k along the write's own principal direction, which points towards virtue. On training
scenarios Adam minimises

    objective + max(0, KL(unsteered ‖ steered, on neutral text) / kl − 1)

`MARGIN`: mean over pairs of a virtuous and a vicious scenario of softplus(−(m_v − m_c) / s), m the margin of approving
over disapproving words and s its standard deviation unsteered: a smooth AUROC.

`ORDER`: the geometry of a later layer, without a word and without behaviour. Take scenarios i, j, k of one foundation,
of which people judge i and j to be nearer than i and k by `GAP` or more (|difference of signed typicalities| / 2). The
cosines s of centred mean vectors are to say so by `LEAD`: mean of softplus((LEAD − s_ij + s_ik) / T) · T with
T = `TEMPERATURE`. The loss and its constants are those by which ReSO (arXiv 2609.04022) trains all weights of a model.

What it does not prove. That the direction is moral: d numbers are fitted to a few hundred scenarios. Measure on
held-out scenarios, words and wordings, against twins at equal damage (`sae_moral.studies.sweep`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae_moral.capture.hooks import resolve_hooks
from sae_moral.capture.models import hooked_model
from sae_moral.capture.prompts import Prompts, prompt_ids, prompts_of
from sae_moral.capture.resume import Resume, without_cache
from sae_moral.data import MoralData
from sae_moral.errors import unknown
from sae_moral.foundations import NEUTRAL, VIRTUE
from sae_moral.protocol import AUDITED
from sae_moral.provenance import HookedModel
from sae_moral.steering.edits import Write, written
from sae_moral.steering.effects import neutral_texts, right_padded
from sae_moral.steering.forwards import last_logits
from sae_moral.steering.hooks import steer
from sae_moral.steering.natural import natural_gradient
from sae_moral.steering.steering import Direction, Steering
from sae_moral.steering.strength import at_kl
from sae_moral.steering.twins import RIGHT_OR_WRONG, behind_first, margin_gradient, toward_virtue
from sae_moral.steering.words import Wording, measure, pair_tokens
from sae_moral.surgery import Operation, WriteTerm, along
from sae_moral.surgery.terms import signed_typicality

MARGIN, ORDER = OBJECTIVES = ("margin", "order")
GAP, LEAD, TEMPERATURE = 0.2, 0.05, 0.1
NEUTRAL_BATCH = 4
OUTPUT, NATURAL, DOWNSTREAM = "output", "natural", "downstream"
MODEL_WRITES = (OUTPUT, NATURAL, DOWNSTREAM, ORDER)
"""Writes that need the model: along the gradient of the margin, its natural gradient, or what is trained by either
objective."""


def model_write(
    name: str,
    model: HookedModel | nn.Module,
    layer: int,
    data: MoralData,
    wordings: Sequence[Wording] = (RIGHT_OR_WRONG,),
    *,
    readers: Callable[[], Operation],
    any_model: bool = False,
) -> WriteTerm:
    """One of `MODEL_WRITES`, for `operate`.

    Args:
        data: training scenarios.
        wordings: as for `margin_gradient`; `order` takes none.
        readers: an operation with a write (`shared`, say), whose gates `downstream` and `order` are trained with.
        any_model: accept an SAE of a model with another name.

    Raises:
        ValueError: an unknown name, or as `margin_gradient` and `downstream`.
    """
    if name not in MODEL_WRITES:
        raise unknown("write of a model", name, MODEL_WRITES)
    if name in (OUTPUT, NATURAL):
        slope = margin_gradient if name == OUTPUT else natural_gradient
        return along(slope(model, data, layer, wordings).vector, name)
    how: dict[str, Any] = {"objective": ORDER if name == ORDER else MARGIN, "any_model": any_model}
    return along(downstream(model, written(readers()), data, wordings, **how).vector, name)


def downstream(
    model: HookedModel | nn.Module,
    write: Write,
    data: MoralData,
    wordings: Sequence[Wording] = (RIGHT_OR_WRONG,),
    *,
    objective: str = MARGIN,
    layer: int | None = None,
    kl: float = 0.02,
    steps: int = 60,
    lr: float = 0.05,
    batch_size: int = 16,
    limit: int = 320,
    texts: Sequence[str] | None = None,
    seed: int = 0,
    any_model: bool = False,
) -> Direction:
    """The trained direction u; `surgery.along` makes a write of it.

    Args:
        write: whose gates say when, e.g. `written(operation)`; training starts at its principal direction, at the
            strength where KL is `kl`.
        data: training scenarios of both poles; at most `limit` are used.
        wordings: for `margin`: what is measured later, pairs and wordings that are held out, does not belong here.
        objective: `margin` or `order`.
        layer: for `order`: the block after which vectors are compared; by default halfway from the write to the end.
        kl: damage on neutral text that is tolerated, in nats per token.
        steps: of Adam, one batch each.
        lr: share of the starting length that a step moves u by.
        texts: neutral text; that of `side_effects` by default.
        seed: of the batches.
        any_model: accept an SAE of a model with another name.

    Raises:
        ValueError: an unknown objective, a layer that is not behind the write, a pole without scenarios, or as `at_kl`.
        NoStrengthError: no strength of the write has the damage to start from.

    Example:
        readers = operate(sae, None, model, data, write="shared")
        found = downstream(model, written(readers), training)
        operation = operate(sae, None, model, data, write=along(found.vector, "downstream"))
    """
    model = hooked_model(model)
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    end = model.cfg.n_layers - 1
    later = (write.layer + 1 + end) // 2 if layer is None else layer
    if objective == ORDER and not write.layer < later <= end:
        raise ValueError(f"layer {later} for a write after block {write.layer}; expected {write.layer + 1} to {end}")
    for name, kept in (("virtuous", data.pole == VIRTUE), ("vicious", (data.pole != VIRTUE) & (data.pole != NEUTRAL))):
        if not kept.any():
            raise ValueError(f"no {name} scenario in {len(data)}; expected some of both poles")
    data = data if objective == ORDER else data.subset(np.flatnonzero(data.pole != NEUTRAL))
    data = data.sample(min(limit, len(data)))
    start = at_kl(model, Steering(write, 1.0), kl, texts, any_model=any_model)
    gate, u = _gate(write, start.alpha, model.cfg.device or "cpu")
    task = _Margin(model, data, wordings) if objective == MARGIN else _Order(model, data, later)
    neutral = _Neutral(model, neutral_texts() if texts is None else texts, kl)
    edit = _Edit(gate, u.requires_grad_())
    optimiser = torch.optim.Adam([u], lr=lr * float(u.detach().norm()) / len(u) ** 0.5)
    rng, resume = np.random.default_rng(seed), Resume(model, write.layer)
    batches = task.batches(rng, batch_size)
    hooks = [(resolve_hooks(model, [write.layer])[write.layer], edit), *task.hooks]
    with torch.enable_grad(), steer(model, ()), resume(), model.hooks(fwd_hooks=hooks):
        for step in range(steps):  # the same batches in every epoch, so that runs are resumed
            loss = task.loss(edit, batches[step % len(batches)]) + neutral.loss(edit, step)
            (u.grad,) = torch.autograd.grad(loss, [u])
            optimiser.step()
    return Direction(write.layer, u.detach().cpu(), f"downstream ({objective})")


@dataclass(eq=False)
class _Edit:
    """Adds gate(h) · u where `here` says."""

    gate: Callable[[Tensor], Tensor]
    u: Float[Tensor, "d"]
    here: Bool[Tensor, "batch pos"] | None = None

    def __call__(self, hidden: Tensor, hook: Any = None) -> Tensor | None:
        if self.here is None:
            return None
        with torch.no_grad():
            q = torch.where(self.here[..., None], self.gate(hidden)[..., None], 0.0)
        return hidden.detach() + (q * self.u).to(hidden.dtype)


def _gate(write: Write, alpha: float, device: torch.device | str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """q(h), of unit mean square length in the rows, and the start of u."""
    rows = write.rows.float()
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    # A singular vector has no sign of its own; `along` writes what rows of virtues are to write.
    principal = directions[0] * (1.0 if directions[0] @ toward_virtue(write).to(rows) >= 0 else -1.0)
    along = rows @ principal
    size = along.norm()
    term = Write(write.layer, write.gate, (along / size)[:, None] * principal, write.name).term(device)
    unit = principal.to(device)
    return lambda hidden: term(hidden).float() @ unit, (alpha * size * principal).to(device)


class _Margin:
    """A smooth AUROC of the margins of words."""

    hooks: Sequence[Any] = ()

    def __init__(self, model: HookedModel, data: MoralData, wordings: Sequence[Wording]) -> None:
        plain = measure(model, data, (), wordings)
        self._model, self._virtue = model, torch.from_numpy(data.pole == VIRTUE)
        self._asked = [
            (wording.prompts(model, data.text), pair_tokens(model, wording.pairs), float(own.mean(axis=0).std()))
            for wording, own in zip(wordings, plain.values(), strict=True)
        ]

    def batches(self, rng: np.random.Generator, size: int) -> list[np.ndarray]:
        """Either pole in its share, once each; none without both."""
        sides = [rng.permutation(np.flatnonzero(self._virtue.numpy() == side)) for side in (True, False)]
        n = max(1, min(sum(map(len, sides)) // size, *map(len, sides)))
        return [np.concatenate(parts) for parts in zip(*(np.array_split(own, n) for own in sides), strict=True)]

    def loss(self, edit: _Edit, rows: np.ndarray) -> Tensor:
        total = torch.zeros(())
        for prompts, pairs, deviation in self._asked:
            good, bad = (list(side) for side in zip(*pairs, strict=True))
            tokens, at = _some(prompts, rows, self._model, left=True)
            edit.here = behind_first(tokens.real)
            logits = last_logits(self._model, len(tokens.ids))(tokens.ids, tokens.real.long())
            margin = (logits[:, good] - logits[:, bad]).mean(dim=1)[at].cpu() / deviation
            virtue = self._virtue[rows]
            total = total + nn.functional.softplus(margin[~virtue][None] - margin[virtue][:, None]).mean()
        return total / len(self._asked)


class _Order:
    """Similarities at a later layer in the order of human ones."""

    def __init__(self, model: HookedModel, data: MoralData, layer: int) -> None:
        self._model, self._found = model, list[Tensor]()
        self.hooks = [(resolve_hooks(model, [layer])[layer], self._keep)]
        self._foundation = data.foundation
        self._judged = signed_typicality(torch.from_numpy(data.vector)).float()
        self._prompts = prompts_of(model, data.text, template=AUDITED.template, bos=AUDITED.bos)

    def batches(self, rng: np.random.Generator, size: int) -> list[np.ndarray]:
        """Of one foundation each, in a random order."""
        made = []
        for foundation in np.unique(self._foundation):
            own = rng.permutation(np.flatnonzero(self._foundation == foundation))
            made += np.array_split(own, max(1, len(own) // size))
        return [made[i] for i in rng.permutation(len(made))]

    def _keep(self, hidden: Tensor, hook: Any = None) -> None:
        self._found[:] = [hidden]

    def loss(self, edit: _Edit, rows: np.ndarray) -> Tensor:
        tokens, at = _some(self._prompts, rows, self._model, left=False)
        edit.here = behind_first(tokens.real)
        self._model(tokens.ids, attention_mask=tokens.real.long(), **without_cache(self._model))
        own = tokens.own[..., None]
        mean = ((self._found[-1].float() * own).sum(dim=1) / own.sum(dim=1).clamp(min=1))[at].cpu()
        return order_loss(mean, self._judged[rows])


def order_loss(vectors: Float[Tensor, "m d"], judged: Float[Tensor, "m"]) -> Float[Tensor, ""]:
    """See the module: over all triplets of the m scenarios; 0 where no two judgements lie `GAP` apart."""
    unit = nn.functional.normalize(vectors - vectors.mean(dim=0), dim=1)
    like, human = unit @ unit.T, 1 - (judged[:, None] - judged).abs() / 2
    lead = like[:, :, None] - like[:, None, :]
    other = ~torch.eye(len(vectors), dtype=torch.bool)
    wanted = (human[:, :, None] - human[:, None, :] >= GAP - 1e-6) & other[:, :, None] & other[:, None, :]
    if not wanted.any():
        return vectors.sum() * 0
    return TEMPERATURE * nn.functional.softplus((LEAD - lead[wanted]) / TEMPERATURE).mean()


class _Neutral:
    """KL on neutral text beyond what is tolerated, in units of it."""

    def __init__(self, model: HookedModel, texts: Sequence[str], kl: float) -> None:
        self._model, self._kl = model, kl
        ids = sorted(prompt_ids(model, texts), key=len)
        device = model.cfg.device or "cpu"
        self._batches = [right_padded(ids[i : i + NEUTRAL_BATCH], device) for i in range(0, len(ids), NEUTRAL_BATCH)]
        with torch.inference_mode():
            plain = [self._logits(*one) for one in self._batches]
        self._plain = [one.clone() for one in plain]

    def _logits(self, ids: Tensor, real: Tensor) -> Float[Tensor, "tokens words"]:
        logits = self._model(ids, attention_mask=real.long(), return_type="logits", **without_cache(self._model))
        return logits[real].float().log_softmax(dim=-1)

    def loss(self, edit: _Edit, step: int) -> Tensor:
        i = step % len(self._batches)
        ids, real = self._batches[i]
        edit.here = behind_first(real)
        found, plain = self._logits(ids, real), self._plain[i]
        damage = (plain.exp() * (plain - found)).sum(dim=-1).mean()
        return (damage / self._kl - 1).clamp(min=0).cpu()


def _some(prompts: Prompts, rows: np.ndarray, model: HookedModel, *, left: bool) -> tuple[Any, Tensor]:
    """The distinct prompts of these scenarios as a batch, and where each scenario stands in it."""
    distinct, at = np.unique(prompts.row[rows], return_inverse=True)
    return prompts.batch(distinct.tolist(), model.cfg.device or "cpu", left=left), torch.from_numpy(at)
