"""Which SAEs can be used: one table of architectures, one of configuration keys, and how the names of models compare.

A key is applied (it shapes what is computed), warned of, or refused. SAELens ignores some keys silently: a
normalisation by a constant of the training data that is not folded into the weights is one, and it is refused here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn

from sae_moral.capture.models import hooked_model
from sae_moral.errors import SaeMoralWarning
from sae_moral.provenance import HookedModel


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


@dataclass(frozen=True)
class Key:
    """What happens to a key of an SAE's configuration.

    Attributes:
        name: with `metadata.` before a key of the metadata.
        effect: `applied`, `warned` or `refused`.
        when: whether a value is meant.
        why: what is done, or the end of the sentence that begins with the SAE's name; `{value}` is filled in.
    """

    name: str
    effect: Literal["applied", "warned", "refused"]
    why: str
    when: Callable[[Any], bool] = lambda value: value is not None

    def value(self, sae: Any) -> Any:
        """Of an SAELens object."""
        held = sae.cfg.metadata if self.name.startswith("metadata.") else sae.cfg
        return getattr(held, self.name.removeprefix("metadata."), None)


_FOLDED = ("expected_average_only_in", "covariance_whitening")
KEYS = (
    Key("d_in", "applied", "vectors of another width are refused"),
    Key("dtype", "applied", "vectors are cast to it"),
    Key("apply_b_dec_to_input", "applied", "SAELens subtracts the decoder's bias from the input"),
    Key("normalize_activations", "applied", "SAELens normalises each vector", lambda value: value not in _FOLDED),
    Key(
        "normalize_activations",
        "refused",
        "expects its input normalised by {value}, which is not folded into its weights, and the constants are not in "
        "its files; fold them with fold_activation_norm_scaling_factor or fold_activation_whitening first",
        lambda value: value in _FOLDED,
    ),
    Key(
        "reshape_activations",
        "refused",
        "reads activations reshaped by {value}; expected an SAE of the residual stream",
        lambda value: value not in (None, "none"),
    ),
    Key("metadata.hook_name", "applied", "where vectors are captured"),
    Key("metadata.hook_head_index", "refused", "reads attention head {value}; expected an SAE of the residual stream"),
    Key("metadata.model_name", "applied", "an SAE of another model is refused"),
    Key("metadata.prepend_bos", "applied", "whether prompts begin with BOS"),
    Key(
        "metadata.model_from_pretrained_kwargs", "applied", "a model whose stream is not centred as its was is refused"
    ),
    Key("metadata.sae_moral", "applied", "granularity, template and pooling of the prompts"),
    Key(
        "metadata.seqpos_slice",
        "warned",
        "was trained on the positions {value} of its contexts only; here it reads all",
        lambda value: value is not None and any(part is not None for part in value),
    ),
)


def check_usable(sae: Any, name: str) -> None:
    """Refuse an SAE whose latents of a vector do not follow from that vector and its own configuration.

    Raises:
        ValueError: a transcoder or a sequence model, a key of `KEYS` that is refused, damaged weights.

    Warns:
        SaeMoralWarning: a key of `KEYS` that is warned of.
    """
    architecture = str(sae.cfg.architecture())
    if reason := ARCHITECTURES.get(architecture, Architecture()).refused:
        raise ValueError(f"{name} is a {architecture}: {reason}; expected an SAE of the residual stream")
    for key in KEYS:
        if key.effect == "applied" or not key.when(value := key.value(sae)):
            continue
        problem = f"{name} {key.why.format(value=value)}"
        if key.effect == "refused":
            raise ValueError(problem)
        warnings.warn(problem, SaeMoralWarning, stacklevel=3)
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


def community_saes(model: HookedModel | nn.Module | str, *, kind: str | None = "residual") -> list[CommunityRelease]:
    """Releases for a model, those of its own variant (base or chat) first; nothing is downloaded.

    Args:
        model: a model, or its name (`gemma-3-270m`, `Qwen/Qwen3-8B`).
        kind: only releases of this kind; None for all.

    Returns:
        Empty when SAELens' list has none for this model.
    """
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
    # Not every residual stream can be measured: only the one between two blocks.
    return "other" if "resid_mid" in first_id else by_name
