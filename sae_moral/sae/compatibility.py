"""Which SAEs can be used: one table of architectures, and how the names of models compare. The table of configuration
keys is `config_keys`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from sae_moral.capture.models import hooked_model
from sae_moral.provenance import HookedModel
from sae_moral.sae.saelens import need_saelens


@dataclass(frozen=True)
class Architecture:
    """What holds for an architecture of SAELens.

    Attributes:
        elementwise: a latent depends on its own encoder column only, so that a few can be computed alone.
        operable: surgery can compute a few latents apart from all others.
        refused: why it is no SAE of one vector; empty where it is one.
    """

    elementwise: bool = False
    operable: bool = False
    refused: str = ""


_ANOTHER_HOOK = Architecture(refused="it predicts another hook's activations")
ARCHITECTURES = {
    "standard": Architecture(elementwise=True, operable=True),
    "jumprelu": Architecture(elementwise=True, operable=True),  # what BatchTopK and Matryoshka are saved as, too
    "gated": Architecture(elementwise=True, operable=True),
    "topk": Architecture(operable=True),
    "abstopk": Architecture(),
    "matching_pursuit": Architecture(),
    "transcoder": _ANOTHER_HOOK,
    "skip_transcoder": _ANOTHER_HOOK,
    "jumprelu_transcoder": _ANOTHER_HOOK,
    "jumprelu_skip_transcoder": _ANOTHER_HOOK,
    "temporal": Architecture(refused="its latents depend on the whole sequence"),
}
"""By SAELens' name. One that is not here is measured like one whose latents compete, and cannot be operated on."""
ELEMENTWISE = tuple(name for name, about in ARCHITECTURES.items() if about.elementwise)
OPERABLE = tuple(name for name, about in ARCHITECTURES.items() if about.operable)


def check_usable(sae: Any, name: str) -> None:
    """Refuse an SAE whose latents of a vector do not follow from that vector and its own configuration.

    Raises:
        ValueError: a transcoder or a sequence model, damaged weights.
    """
    architecture = str(sae.cfg.architecture())
    if reason := ARCHITECTURES.get(architecture, Architecture()).refused:
        raise ValueError(f"{name} is a {architecture}: {reason}; expected an SAE of the residual stream")
    bad = [key for key, value in sae.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"{name} has weights that are not finite: {', '.join(bad)}; the file is damaged")
    if tuple(sae.W_dec.shape) != (sae.cfg.d_sae, sae.cfg.d_in) or sae.W_dec.dtype != sae.dtype:
        raise ValueError(
            f"{name} has a decoder of {tuple(sae.W_dec.shape)} in {sae.W_dec.dtype}, and its configuration says "
            f"{(sae.cfg.d_sae, sae.cfg.d_in)} in {sae.dtype}; use sae.to(dtype=...) to change the dtype"
        )


CHAT = {"instruct", "it", "chat", "guard", "safeguard", "thinking", "sft", "dpo"}
BASE = {"base", "pt", "pretrained"}
CHAT_UNLESS_BASE = ("qwen3", "smollm3", "gpt-oss")
"""Families whose plain name is the post-trained model: Qwen3-8B is chat, Qwen3-8B-Base is not."""
NOT_OF_THE_FAMILY = CHAT | BASE | {"hf", "meta", "gguf", "bnb", "4bit", "8bit", "fp8", "awq", "gptq", "bf16"}


def model_name(model: HookedModel) -> str:
    """The name a model goes by: the one it was loaded under, else its configuration's."""
    return str(getattr(model.cfg, "sae_moral_name", None) or model.cfg.model_name)


@lru_cache(maxsize=4096)
def model_family(name: str) -> tuple[str, bool]:
    """What the variants of one model share, and whether this variant was post-trained for chat.

    `google/gemma-3-270m-it` gives ("gemma-3-270m", True). TransformerLens' short names are resolved first
    (`gpt2-small` is `gpt2`). Names are all there is to go by: a folder named differently is another family.
    """
    official = _aliases().get(name.lower(), name)
    words = [word for word in re.split(r"[-_ ]", official.rstrip("/").split("/")[-1].lower()) if word]
    family = "-".join(word for word in words if word not in NOT_OF_THE_FAMILY and not re.fullmatch(r"2\d{3}", word))
    chat = bool(CHAT & set(words)) or (family.startswith(CHAT_UNLESS_BASE) and not BASE & set(words))
    return family, chat


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    from transformer_lens.loading_from_pretrained import make_model_alias_map

    return dict(make_model_alias_map())


_KINDS = {
    "other": r"temporal",
    "transcoder": r"transcoder|clt",
    "attention": r"[-_]att(n|-|$)|lxa|hook-z",
    "mlp": r"mlp|lxm",
    "residual": r"res|lxr|r1_distill|qwen-scope|sae_?bench|andyrdt|goodfire|qresearch",
}
"""What a release reads, by its name and its ids, in this order; SAELens' list does not say it."""


@dataclass(frozen=True)
class CommunityRelease:
    """One release of SAELens' list.

    Attributes:
        release: the name to load from, with one of the ids.
        ids: its SAEs; `load_sae((release, id))`.
        model: the model they were trained on, as the list says.
        repo_id: where they are on the hub.
        kind: residual, mlp, attention, transcoder or other, by its name. `residual` ones read the stream after a block.
        chat: whether that model is a chat model.
        same_variant: False where it is the base model and the one asked for the chat model, or the other way round.
    """

    release: str
    ids: tuple[str, ...]
    model: str
    repo_id: str
    kind: str
    chat: bool
    same_variant: bool


def community_saes(model: HookedModel | nn.Module | str, *, kind: str | None = "residual") -> list[CommunityRelease]:
    """Releases for a model, those of its own variant (base or chat) first; nothing is downloaded.

    Args:
        model: a model, or its name (`gemma-3-270m`, `Qwen/Qwen3-8B`).
        kind: only releases of this kind; None for all.

    Returns:
        Empty when SAELens' list has none for this model.
    """
    need_saelens()
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    family, chat = model_family(model if isinstance(model, str) else model_name(hooked_model(model)))
    found = []
    for release, entry in get_pretrained_saes_directory().items():
        its_family, its_chat = model_family(entry.model)
        its_kind = _kind(release, next(iter(entry.saes_map), ""))
        if its_family == family and kind in (None, its_kind):
            ids = tuple(entry.saes_map)
            found.append(
                CommunityRelease(release, ids, entry.model, entry.repo_id, its_kind, its_chat, its_chat == chat)
            )
    return sorted(found, key=lambda row: (not row.same_variant, row.release))


def _kind(release: str, first_id: str) -> str:
    by_name = next((kind for kind, pattern in _KINDS.items() if re.search(pattern, release)), "other")
    # The stream between attention and MLP can be measured, and not operated on.
    return "other" if "resid_mid" in first_id else by_name
