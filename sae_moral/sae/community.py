"""The community SAEs that SAELens knows for a model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sae_moral.sae.fit import model_family, model_name

_KINDS = {
    "other": r"temporal",
    "transcoder": r"transcoder|clt",
    "attention": r"[-_]att(n|-|$)|lxa|hook-z",
    "mlp": r"mlp|lxm",
    "residual": r"res|lxr|r1_distill|qwen-scope|sae_?bench|andyrdt|goodfire|qresearch",
}
"""What a release reads, told from its name and its ids, in this order; SAELens' list does not say it."""


@dataclass(frozen=True)
class CommunityRelease:
    """One release of SAELens' list.

    Attributes:
        release: the name to load from, with one of the ids.
        ids: its SAEs; `load_sae((release, id))`.
        model: the model they were trained on, as the list says.
        repo_id: where they live on the hub.
        kind: residual, mlp, attention, transcoder or other, by its name. Only `residual` ones can be measured here.
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


def community_saes(model: Any, *, kind: str | None = "residual") -> list[CommunityRelease]:
    """Releases for a model, those of its own variant (base or chat) first; nothing is downloaded.

    Args:
        model: a model, or its name (`gemma-3-270m`, `Qwen/Qwen3-8B`).
        kind: only releases of this kind; None for all.

    Returns:
        Empty when SAELens' list has none for this model.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    family, chat = model_family(model if isinstance(model, str) else model_name(model))
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
    # Not every residual stream can be measured: only the one between two blocks.
    return "other" if "resid_mid" in first_id else by_name
