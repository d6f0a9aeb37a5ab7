"""Latents by what the model makes of them: how much of an answer's margin passes through each.

To first order in a latent's activation, on one scenario, with g_t the gradient of the margin of approving over
disapproving words by the residual stream at token t (`twins.margin_gradient` is its mean), and d_j the decoder row:

    c_j = Σ_t a_j(t) · (g_t · d_j)

(attribution patching to zero, Nanda 2023; of SAE latents: Marks et al. 2024, arXiv 2403.19647). The gap that a latent
carries is the mean of c_j on virtuous scenarios less that on vicious ones. `Attribution.by_dimension` takes, per
foundation, those that carry most of it: for virtues among latents that are higher on virtues, for vices among others.

A latent that correlates with a label need not be one that the model's answer depends on, and the other way round: high
input scores rarely go with high output scores (Arad et al. 2025, arXiv 2505.20063).

What it does not prove. First order: a latent that saturates, or that another one stands in for, is judged wrongly. And
what passes through a decoder row today is not what rows will write after surgery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from sae_moral.capture.models import hooked_model
from sae_moral.data import MoralData
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, VICE, VIRTUE
from sae_moral.provenance import HookedModel
from sae_moral.sae import LoadedSae, check_fit
from sae_moral.sae.load import need_stream
from sae_moral.shown import shown
from sae_moral.steering.twins import RIGHT_OR_WRONG, margin_gradients
from sae_moral.steering.words import Wording


@shown()
@dataclass(frozen=True, eq=False)
class Attribution:
    """Of s latents on n scenarios with a pole.

    Attributes:
        data: the scenarios.
        margin: c_j, in nats; mean over pairs and wordings.
        activation: Σ_t a_j(t), mean over wordings.
    """

    data: MoralData
    margin: Float[np.ndarray, "n s"]
    activation: Float[np.ndarray, "n s"]

    def gap(self, foundation: int | None = None) -> Float[np.ndarray, "s"]:
        """What each latent carries of the gap, in nats, of one foundation's scenarios or of all; NaN without a pole."""
        return self._difference(self.margin, foundation)

    def _difference(self, values: Float[np.ndarray, "n s"], foundation: int | None) -> Float[np.ndarray, "s"]:
        own = np.ones(len(self.data), dtype=bool) if foundation is None else self.data.foundation == foundation
        sides = [own & (self.data.pole == pole) for pole in (VIRTUE, VICE)]
        if not all(side.any() for side in sides):
            return np.full(values.shape[1], np.nan)
        return values[sides[0]].mean(axis=0) - values[sides[1]].mean(axis=0)

    def by_dimension(self, limit: int = 8, among: Mapping[str, Sequence[int]] | None = None) -> dict[str, list[int]]:
        """Latents that carry most of the gap, for `operate`: at most `limit` per dimension, those that carry most
        first. A latent is of one dimension, the one whose foundation it carries most of.

        Args:
            among: only of these, each for its own dimension: `MoralLatents.by_dimension()` makes it correlational,
                too.
        """
        gaps = np.stack([np.nan_to_num(self.gap(f)) for f in range(len(FOUNDATIONS))])
        higher = np.stack([np.nan_to_num(self._difference(self.activation, f)) for f in range(len(FOUNDATIONS))])
        best = gaps.argmax(axis=0)
        found = {}
        for d, name in enumerate(DIMENSIONS):
            f, pole = divmod(d, 2)
            if among is None:
                side = higher[f] > 0 if pole == VIRTUE else higher[f] < 0
                own = np.flatnonzero((best == f) & (gaps[f] > 0) & side)
            else:
                own = np.array([latent for latent in among.get(name, []) if gaps[f][latent] > 0], dtype=np.int64)
            found[name] = own[np.argsort(-gaps[f][own], kind="stable")][:limit].tolist()
        return found


def attribution(
    model: HookedModel | nn.Module,
    sae: LoadedSae,
    data: MoralData,
    wordings: Sequence[Wording] = (RIGHT_OR_WRONG,),
    *,
    limit: int = 400,
    batch_size: int = 16,
    any_model: bool = False,
) -> Attribution:
    """How much of the margin passes through each latent.

    Args:
        sae: of the model's residual stream.
        data: TRAINING scenarios; at most `limit` of those with a pole are used. Memory: 8 bytes × these × latents.
        wordings: what is measured later, pairs and wordings that are held out, does not belong here.
        any_model: accept an SAE of a model with another name.

    Raises:
        ValueError: an SAE of another model, or not of the stream; as `margin_gradient`.

    Example:
        found = attribution(model, sae, training)
        operation = operate(sae, found.by_dimension(), model, data, write="shared")
    """
    model = hooked_model(model)
    check_fit(sae, model, any_model=any_model)
    need_stream(sae, "attribution")
    moral, batches = margin_gradients(model, data, sae.layer, wordings, limit=limit, batch_size=batch_size)
    margin, activation = (np.zeros((len(moral), sae.d_sae), dtype=np.float32) for _ in range(2))
    for batch in batches:
        latents = sae.encode(batch.hidden[batch.behind_first]).requires_grad_()
        passed = (sae.sae.decode(latents) * batch.gradient[batch.behind_first].to(latents)).sum()
        (slope,) = torch.autograd.grad(passed, latents)  # through SAELens' own decoding, whatever it rescales
        which, latents = batch.behind_first.nonzero()[:, 0], latents.detach()
        for found, values in ((margin, latents * slope), (activation, latents)):
            summed = values.new_zeros(len(batch.hidden), sae.d_sae).index_add_(0, which, values).cpu().numpy()
            for i, prompt in enumerate(batch.prompts):
                found[batch.row == prompt] += summed[i] / len(wordings)
    return Attribution(moral, margin, activation)
