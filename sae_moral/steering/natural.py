"""The direction that raises a margin most for the damage it does.

A small change δ of the stream after a block, at one token, moves what the model predicts there and behind it by

    KL ≈ ½ δᵀ F δ,    F = E[∇ log p(y) ∇ log p(y)ᵀ],  y drawn from p

F is the Fisher information of the next tokens: ∇ is by the stream at a token, log p(y) is summed over all positions,
and the mean is over tokens. Among directions of equal damage the steepest is the natural gradient (Amari 1998),

    u = (F + λ I)⁻¹ E[∂ margin / ∂ h],    λ = `SHARE` · tr F / d

The plain gradient (`twins.margin_gradient`) is the steepest among directions of equal length. At equal damage it can
move the words that it was learnt from and no others (docs/design/surgery.md).

F is of training scenarios as they are, never of the neutral text on which damage is measured later.

What it does not prove. That the direction is moral: compare with twins at equal damage (`sae_moral.studies.sweep`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_moral.capture.models import hooked_model
from sae_moral.capture.prompts import prompts_of
from sae_moral.capture.resume import without_cache
from sae_moral.data import MoralData
from sae_moral.provenance import HookedModel
from sae_moral.steering.steering import Direction
from sae_moral.steering.twins import RIGHT_OR_WRONG, behind_first, differentiable, margin_gradient
from sae_moral.steering.words import Wording

SHARE = 0.01
"""Of the mean eigenvalue of F, added to all of them (docs/design/surgery.md)."""


def natural_gradient(
    model: HookedModel | nn.Module,
    data: MoralData,
    layer: int,
    wordings: Sequence[Wording] = (RIGHT_OR_WRONG,),
    *,
    share: float = SHARE,
    limit: int = 200,
    batch_size: int = 8,
    seed: int = 0,
) -> Direction:
    """The natural gradient of the margin; see the module.

    Args:
        data: training scenarios; at most `limit` are used, for the gradient and for F.
        wordings: what is measured later, pairs and wordings that are held out, does not belong here.
        share: of the mean eigenvalue of F, added to all; large ones give the plain gradient's direction.
        seed: of the next tokens that are drawn.

    Raises:
        ValueError: as `margin_gradient`; a margin that does not depend on the stream.

    Example:
        words = choose_words(model, training)
        found = natural_gradient(model, training, 9, words.learnt)
        operate(sae, None, model, data, write=along(found.vector, "natural"))
    """
    model = hooked_model(model)
    gradient = margin_gradient(model, data, layer, wordings, limit=limit).vector.double()
    texts = data.sample(min(limit, len(data))).text
    information = fisher(model, texts, layer, batch_size=batch_size, seed=seed).double()
    d = len(gradient)
    damped = information + share * information.trace() / d * torch.eye(d, dtype=torch.float64)
    found = torch.linalg.solve(damped, gradient)
    return Direction(layer, (found / found.norm()).float(), "natural gradient of the margin")


def fisher(
    model: HookedModel | nn.Module, texts: Sequence[str], layer: int, *, batch_size: int = 8, seed: int = 0
) -> Float[Tensor, "d d"]:
    """F of the module, on texts: nats per squared unit of the stream, in float32.

    One drawn next token per position and text; a text is a BOS and its tokens.

    Raises:
        ValueError: a layer that the model does not have.
        DataError: a text without tokens or longer than the context.
    """
    model = hooked_model(model)
    device, generator = model.cfg.device or "cpu", torch.Generator().manual_seed(seed)
    prompts = prompts_of(model, list(texts), template="{text}", bos="prepend")
    total, tokens = torch.zeros(model.cfg.d_model, model.cfg.d_model), 0
    with differentiable(model, layer) as held:
        for first in range(0, len(prompts.ids), batch_size):
            held.clear()
            batch = prompts.tokens(first, min(first + batch_size, len(prompts.ids)), device)
            with torch.enable_grad():
                logits = model(batch.ids, attention_mask=batch.real.long(), **without_cache(model))
                said = logits.float().log_softmax(dim=-1)[batch.real]
                drawn = torch.multinomial(said.detach().exp().cpu(), 1, generator=generator).to(said.device)
                (slope,) = torch.autograd.grad(said.gather(1, drawn).sum(), held)
            own = slope[behind_first(batch.real)].float().cpu()
            total += own.T @ own
            tokens += len(own)
    return total / max(tokens, 1)
