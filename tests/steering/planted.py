"""Operations on small random SAEs, made by hand: what surgery would leave behind, without training."""

from __future__ import annotations

from typing import Any

import torch

from sae_moral.sae.load import LoadedSae, load_sae
from sae_moral.surgery import Operation, SurgeryRecord
from sae_moral.surgery.operation import rows_of, with_rows

D, S = 16, 40
LATENTS = torch.tensor([1, 4, 9, 22, 39])


def random_sae(
    architecture: str = "standard", *, layer: int = 1, seed: int = 0, d: int = D, **options: Any
) -> LoadedSae:
    """An SAE with random weights; `batchtopk` and `matryoshka_batchtopk` are what SAELens saves of one in training."""
    from sae_lens import SAE, TrainingSAE

    kind = TrainingSAE if "batchtopk" in architecture else SAE
    needs: dict[str, Any] = {"k": 6} if "topk" in architecture else {}
    if architecture.startswith("matryoshka"):
        needs["matryoshka_widths"] = [10, S]
    metadata = {"hook_name": f"blocks.{layer}.hook_resid_post", "model_name": None}
    sae = kind.from_dict(
        {"architecture": architecture, "d_in": d, "d_sae": S, "metadata": metadata, **needs, **options}
    )
    generator = torch.Generator().manual_seed(seed)
    for name, value in sae.state_dict().items():
        drawn = torch.randn(value.shape, generator=generator) * (0.3 if value.ndim == 2 else 0.5)
        value.copy_(drawn.abs() if "threshold" in name else drawn)
    return load_sae(sae)


def operated(sae: LoadedSae, latents: torch.Tensor = LATENTS, *, seed: int = 1, size: float = 0.3) -> Operation:
    """The SAE with noise added to the given latents' parameters."""
    before = rows_of(sae, latents)
    generator = torch.Generator().manual_seed(seed)
    after = {name: value + size * torch.randn(value.shape, generator=generator) for name, value in before.items()}
    made = with_rows(sae, latents, after, f"operated-{seed}", surgery={"control": "none"})
    record = SurgeryRecord(source=sae.source, sha256={"before": sae.sha256, "after": made.sha256})
    return Operation(made, latents, before, {"care": latents.tolist()}, record)
