"""Operations on small random SAEs, made by hand: what surgery would leave behind, without training; and a model whose
judgement is one direction of its stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_moral.data import MoralData
from sae_moral.data.moral_data import from_records
from sae_moral.sae.load import LoadedSae, load_sae
from sae_moral.surgery import Operation, SurgeryRecord
from sae_moral.surgery.operation import rows_of, with_rows
from tests.libraries import saelens
from tests.tiny import NOUNS, VERBS, save_tiny_model

D, S = 16, 40
LATENTS = torch.tensor([1, 4, 9, 22, 39])


def random_sae(
    architecture: str = "standard", *, layer: int = 1, seed: int = 0, d: int = D, **options: Any
) -> LoadedSae:
    """An SAE with random weights; `batchtopk` and `matryoshka_batchtopk` are what SAELens saves of one in training."""
    sae_lens = saelens()
    kind = sae_lens.TrainingSAE if "batchtopk" in architecture else sae_lens.SAE
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


KNOWS, SAYS, STEADY = torch.eye(D)[:3]
"""Directions of the planted model: along the first a verb's token is virtuous or vicious, along the second it moves the
margin, the third is the same for all verbs."""
SAID: dict[str, float] = dict(zip(VERBS, 2 * np.random.default_rng(4).standard_normal(len(VERBS)), strict=True))
"""How far along `SAYS` each verb lies, whatever its pole is."""
VIRTUE: dict[str, float] = {verb: (1.0, -1.0)[i % 2] for i, verb in enumerate(VERBS)}
"""How far along `KNOWS`: 1 virtuous, −1 vicious."""
SPOKEN = {"helping": 0.6, "hitting": -0.6, "is": 0.4, "the": -0.4, "team": 0.1, "old": -0.1}
"""Words whose logits read `SAYS`, and how strongly; `is` and `the` are far likelier than the others."""


def planted_model(folder: Path) -> Any:
    """The tiny model with blocks that do nothing: the next word after a scenario that ends with a verb follows from
    that verb's embedding alone. What it knows (`KNOWS`) does not reach what it says (`SAYS`)."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    from sae_moral.capture import load_model

    save_tiny_model(folder)
    model: Any = LlamaForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        vectors, words = model.model.embed_tokens.weight, model.lm_head.weight
        words[:, :3] = 0.0
        for verb in VERBS:
            known, said = VIRTUE[verb] * KNOWS, float(SAID[verb]) * SAYS
            vectors[tokenizer.convert_tokens_to_ids(verb)] = known + said + 3 * STEADY
        for word, weight in SPOKEN.items():
            likely = 1.0 if word in ("is", "the") else -1.0
            words[tokenizer.convert_tokens_to_ids(word)] = weight * SAYS + likely * STEADY
    model.save_pretrained(folder)
    return load_model(folder, device="cpu")


def planted_scenarios() -> MoralData:
    """Every verb after every noun."""
    records = []
    for i, (noun, verb) in enumerate((noun, verb) for noun in NOUNS for verb in VERBS):
        vector = np.zeros(10)
        vector[0 if VIRTUE[verb] > 0 else 1] = 1.0
        records.append((f"s{i}", f"{noun} is {verb} .", vector, 0))
    return from_records(records, {"source": "planted"}).regrouped("equal")


def planted_operation(reads: torch.Tensor, writes: torch.Tensor) -> Operation:
    """Two latents with the edit (reads · h) writes: one fires where that is above 0, one where it is below. Before
    surgery they wrote nothing."""
    sae, latents = random_sae(layer=1), torch.tensor([3, 8])
    before = {name: torch.zeros_like(value) for name, value in rows_of(sae, latents).items()}
    after = dict(before) | {"W_enc": torch.stack([reads, -reads], dim=1), "W_dec": torch.stack([writes, -writes])}
    with torch.no_grad():
        sae.sae.b_dec.zero_()
    silent = with_rows(sae, latents, before, "silent", surgery=None)
    made = with_rows(silent, latents, after, "planted", surgery={"control": "none"})
    record = SurgeryRecord(source=silent.source, sha256={"before": silent.sha256, "after": made.sha256})
    return Operation(made, latents, before, {"care": latents.tolist()}, record)
