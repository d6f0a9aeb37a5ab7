"""A small SAE, and scenarios whose vectors carry their labels, for surgery."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sae_moral.capture import Representations
from sae_moral.data.moral_data import MoralData, from_records
from sae_moral.foundations import DIMENSIONS
from sae_moral.sae.load import LoadedSae, load_sae

D, S, K, LAYER = 16, 48, 12, 1
BY_DIMENSION = {"care": [3, 20], "harm": [7, 41], "authority": [5], "subversion": [11, 30]}


def sae(architecture: str = "standard", *, seed: int = 0, **config: Any) -> LoadedSae:
    """A random frame of unit decoder rows, nearly tied: it reconstructs N(0, 1) vectors roughly."""
    from sae_lens import SAE

    about = {"hook_name": f"blocks.{LAYER}.hook_resid_post", "prepend_bos": True}
    made = SAE.from_dict({"architecture": architecture, "d_in": D, "d_sae": S, "k": K, "metadata": about, **config})
    g = torch.Generator().manual_seed(seed)
    for name, value in made.named_parameters():
        value.data = (torch.randn(value.shape, generator=g) * 0.1).to(value.dtype)
        if name == "threshold":
            value.data.abs_()
    made.W_dec.data /= made.W_dec.data.norm(dim=1, keepdim=True)
    made.W_enc.data += D / S * 2 * made.W_dec.data.T
    return load_sae(made)


def data(n: int = 600, *, seed: int = 0) -> MoralData:
    """Distinct texts over two foundations: two in five virtuous, two vicious, one neutral."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        vector, foundation = np.zeros(len(DIMENSIONS)), (0, 3)[i % 2]
        if (kind := rng.integers(5)) < 4:
            vector[2 * foundation + kind % 2] = rng.choice([0.25, 0.5, 0.75, 1.0])
        records.append((f"s{i}", f"scenario number {i}", vector, foundation))
    return from_records(records, {"source": "planted"})


def representations(of: MoralData, *, signal: float = 1.0, seed: int = 0) -> Representations:
    """Noise plus the moral vector along ten fixed directions."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((len(DIMENSIONS), D)) / D**0.5
    x = rng.standard_normal((len(of), D)) + 4 * signal * of.vector @ directions
    vectors = torch.from_numpy(x).float()
    n = np.arange(len(of))
    return Representations((LAYER,), n, 4 + n % 7, 5 + n % 7, {}, {LAYER: vectors}.__getitem__)
