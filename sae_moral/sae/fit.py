"""Does an SAE belong to a model? Its width, its hook, and the model it was trained on."""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sae_moral.errors import SaeMoralWarning

if TYPE_CHECKING:
    from sae_moral.sae.load import LoadedSae

CHAT = {"instruct", "it", "chat", "guard", "safeguard", "thinking", "sft", "dpo"}
BASE = {"base", "pt", "pretrained"}
CHAT_UNLESS_BASE = ("qwen3", "smollm3", "gpt-oss")
"""Families whose plain name is the post-trained model: Qwen3-8B is chat, Qwen3-8B-Base is not."""
NOT_OF_THE_FAMILY = CHAT | BASE | {"hf", "meta", "gguf", "bnb", "4bit", "8bit", "fp8", "awq", "gptq", "bf16"}


def model_name(model: Any) -> str:
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


def check_fit(sae: LoadedSae, model: Any, *, any_model: bool = False) -> None:
    """Refuse an SAE that is not of this model; warn where it is of the base model and this one is the chat model.

    Args:
        sae: the SAE.
        model: the model it is to be used with.
        any_model: only warn when the names of the models differ (a fine-tuned copy, a folder with another name).

    Raises:
        ValueError: another width, a block the model does not have, or another model.
    """
    d_model, n_layers, name = int(model.cfg.d_model), int(model.cfg.n_layers), model_name(model)
    if sae.d_in != d_model:
        raise ValueError(
            f"width: {sae.source} reads vectors of {sae.d_in} numbers and {name} has {d_model}; expected an SAE of "
            f"{name}{_trained_on(sae)}"
        )
    if sae.layer >= n_layers:
        raise ValueError(
            f"hook: {sae.source} reads {sae.hook_name} and {name} has blocks 0 to {n_layers - 1}; expected an SAE of "
            f"{name}{_trained_on(sae)}"
        )
    if sae.model_name is None:
        return
    (wanted, wanted_chat), (found, found_chat) = model_family(sae.model_name), model_family(name)
    if wanted != found:
        problem = f"model: {sae.source} was trained on {sae.model_name}, and this model is {name}"
        if not any_model:
            raise ValueError(f"{problem}; expected an SAE of {found}, or any_model=True if it is a copy of that model")
        warnings.warn(problem, SaeMoralWarning, stacklevel=2)
    elif wanted_chat != found_chat:
        kinds = ("base", "chat")
        warnings.warn(
            f"{sae.source} was trained on the {kinds[wanted_chat]} model {sae.model_name} and is used with the "
            f"{kinds[found_chat]} model {name}: latents mostly carry over, their reconstruction error is larger",
            SaeMoralWarning,
            stacklevel=2,
        )


def _trained_on(sae: LoadedSae) -> str:
    return f" (it was trained on {sae.model_name})" if sae.model_name else ""
