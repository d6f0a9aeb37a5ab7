"""The weights a training begins with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from sae_moral.sae.train_input import InputMap

INIT_NOISE = 0.01
"""Added to decoder rows that begin as data, whose mean square is 1 per dimension: a row of zeros has no gradient."""


def new_sae(config: Any, seed: int) -> Any:
    """SAELens draws its weights from the global generator, which is left as it was found."""
    from sae_lens.saes.sae import TrainingSAE

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TrainingSAE.from_dict(config.to_dict())


@torch.no_grad()
def decoder_from_data(
    sae: Any, vectors: Float[np.ndarray, "_ d"], rows: Int[np.ndarray, "_"], apply: InputMap, seed: int
) -> None:
    """Decoder rows are training vectors, and where those are fewer than latents, differences of two as well: equal rows
    would stay nearly equal. The encoder is their transpose, as with SAELens."""
    rng, d_sae = np.random.default_rng(seed), int(sae.cfg.d_sae)
    first = np.resize(rng.permutation(rows), d_sae)
    drawn = apply(torch.from_numpy(vectors[first]))
    extra = max(0, d_sae - len(rows))
    if extra:
        drawn[-extra:] -= apply(torch.from_numpy(vectors[rng.choice(rows, size=extra)]))
    drawn += torch.from_numpy(rng.normal(scale=INIT_NOISE, size=drawn.shape)).float()
    drawn *= (sae.cfg.decoder_init_norm or 1.0) / drawn.norm(dim=1, keepdim=True)
    sae.W_dec.data = drawn.to(sae.W_dec)
    sae.W_enc.data = sae.W_dec.data.T.clone().contiguous()
