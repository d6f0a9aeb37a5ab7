"""Load any SAE that SAELens can read, and feed it exactly what it was trained on.

What is read from its configuration, never assumed: the hook, the model, whether the decoder bias is subtracted from
the input, how the input is normalised, and whether prompts begin with BOS. Normalisation that SAELens applies at run
time (`layer_norm`, `constant_norm_rescale`) acts on each vector given: on a token's, or on a scenario's mean. What each
key of the configuration does stands in `config_keys.KEYS`; where an SAE comes from, in `files`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_moral.capture.hooks import STREAM
from sae_moral.capture.models import as_device, as_dtype, hooked_model
from sae_moral.errors import SaeMoralWarning
from sae_moral.provenance import HookedModel, tensor_hash
from sae_moral.sae.compatibility import ELEMENTWISE, check_usable, model_family, model_name
from sae_moral.sae.config_keys import check_keys, flat, hook_of, place_of
from sae_moral.sae.files import read_sae
from sae_moral.sae.objects import FOLDED, assembled, centred, for_inference
from sae_moral.shown import shown

logger = logging.getLogger(__name__)


@shown(facts=lambda sae: {"source": sae.source, "layer": sae.layer, "d_in": sae.d_in, "d_sae": sae.d_sae})
@dataclass(frozen=True, eq=False)
class LoadedSae:
    """An SAE of the residual stream after one block, or of another place in that block where vectors are as wide.

    Attributes:
        sae: the SAELens object, for inference.
        source: what to call it: `release/id`, the folder's name, or its own name.
        layer: the block after which it reads the residual stream.
        site: where it reads; a name of `capture.hooks.SITES`.
    """

    sae: Any
    source: str
    layer: int
    site: str = STREAM

    @property
    def d_in(self) -> int:
        """Numbers per vector it reads."""
        return int(self.sae.cfg.d_in)

    @property
    def d_sae(self) -> int:
        """Its latents."""
        return int(self.sae.cfg.d_sae)

    @property
    def architecture(self) -> str:
        """SAELens' name of it: `standard`, `jumprelu`, `gated`, `topk`, …"""
        return str(self.sae.cfg.architecture())

    @property
    def hook_name(self) -> str:
        """Where it reads, as its configuration says."""
        return str(self.sae.cfg.metadata.hook_name or f"blocks.{self.layer}.hook_resid_post")

    @property
    def model_name(self) -> str | None:
        """The model it was trained on, if recorded."""
        return self.sae.cfg.metadata.model_name or None

    @property
    def bos(self) -> str:
        """How prompts begin: `prepend` (a BOS, SAELens' default) or `none` (nor what the tokenizer adds by itself,
        which SAELens takes away where `prepend_bos` is false); of an SAE trained here, as it was trained."""
        default = "none" if self.sae.cfg.metadata.prepend_bos is False else "prepend"
        return str(self.trained_on.get("bos", default))

    @property
    def granularity(self) -> str | None:
        """What it was trained on, where its configuration says: `token` or `scenario` vectors."""
        return self.trained_on.get("granularity")

    @property
    def trained_on(self) -> Mapping[str, Any]:
        """Granularity, template, pooling and BOS of an SAE trained here; empty for others."""
        return self.sae.cfg.metadata.sae_moral or {}

    @cached_property
    def sha256(self) -> str:
        """Hash of the weights as loaded (in their dtype) and of every setting that shapes an encoding."""
        return tensor_hash(self.sae.state_dict(), sorted(self._settings().items()))

    def _settings(self) -> dict[str, Any]:
        found = {key: value for key, value in self.sae.cfg.to_dict().items() if key not in ("metadata", "device")}
        return {**found, "hook_name": self.hook_name}

    def describe(self) -> dict[str, Any]:
        """What shaped its numbers; JSON values."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "layer": self.layer,
            "model_name": self.model_name,
            "bos": self.bos,
            "granularity": self.granularity,
            "architecture": self.architecture,
            "neuronpedia_id": self.sae.cfg.metadata.neuronpedia_id or None,
            **self._settings(),
        }

    def encode(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows s"]:
        """Latents of raw residual-stream vectors, in float32 on the SAE's device.

        The one cast to the SAE's dtype, its normalisation and its bias are SAELens' (`process_sae_in`).

        Raises:
            ValueError: vectors of another width, or latents that are not finite.
        """
        return encode(self.sae, x, self.source)

    def part(self, start: int, stop: int) -> Any:
        """An SAELens object of the latents start … stop alone, which shares the weights; elementwise architectures.

        Raises:
            ValueError: an architecture in which latents compete.
        """
        if self.architecture not in ELEMENTWISE:
            raise ValueError(f"latents of a {self.architecture} SAE compete; expected one of {', '.join(ELEMENTWISE)}")
        columns = {"W_enc": (slice(None), slice(start, stop)), "b_dec": (slice(None),)}
        state = {name: value[columns.get(name, (slice(start, stop),))] for name, value in self.sae.state_dict().items()}
        config = {**self.sae.cfg.to_dict(), "d_sae": stop - start}
        # The metadata may hold model settings that SAELens warns about for every object made.
        return assembled({**config, "metadata": {"hook_name": self.hook_name}}, state, self.sae.device)


def need_stream(sae: LoadedSae, what: str) -> None:
    """Refuse an SAE of another site than the residual stream, for what acts on the stream.

    Raises:
        ValueError: it reads something else.
    """
    if sae.site != STREAM:
        raise ValueError(
            f"hook: {sae.source} reads {sae.hook_name}; its latents can be measured, and {what} needs an SAE of the "
            "residual stream after a block"
        )


SaeLike = Any
"""An SAELens SAE, a `LoadedSae`, a folder, a (release, id), or `release/id`."""


def encode(sae: Any, x: Float[Tensor, "*rows d"], name: str = "the SAE") -> Float[Tensor, "*rows s"]:
    """See `LoadedSae.encode`."""
    if x.shape[-1] != sae.cfg.d_in:
        raise ValueError(f"width: vectors of {x.shape[-1]} numbers, and {name} reads {sae.cfg.d_in}")
    with torch.no_grad():
        latents = sae.encode(x.to(sae.device))
    latents = (latents.to_dense() if latents.is_sparse else latents).float()
    if not torch.isfinite(latents).all():
        raise ValueError(f"{name} gave latents that are not finite; try dtype='float32', and check the vectors")
    return latents


def load_sae(
    source: SaeLike,
    *,
    model: HookedModel | nn.Module | None = None,
    layer: int | None = None,
    loader: str | None = None,
    dtype: torch.dtype | str = "float32",
    device: str | torch.device | None = None,
    any_model: bool = False,
) -> LoadedSae:
    """Load an SAE and check that it can be used.

    Args:
        source: an SAELens SAE (used as it is; one in training is turned into what SAELens would save), a folder in
            SAELens' or sparsify's layout, `(release, id)` or `release/id` of SAELens' list or of a hub repository.
        model: the model it is for; see `check_fit`.
        layer: the block it must belong to; needed only for an SAE that does not record its hook.
        loader: name of the SAELens loader of a repository that is not on its list (`sparsify`, `gemma_3`, …).
        dtype: the one its weights are cast to, or its name (`bf16` and the like, too); not for an object.
        device: where to load it; by default the model's device, or the CPU. Not for an object.
        any_model: accept an SAE of a model with another name.

    Raises:
        ValueError: no such SAE, dtype or device, damaged files, not an SAE of the residual stream, an input path that
            cannot be followed, or one that does not fit the model or the layer.
    """
    model = None if model is None else hooked_model(model)
    if isinstance(source, LoadedSae):
        loaded = source
    else:
        is_object = hasattr(source, "encode") and hasattr(source, "cfg")
        own = getattr(getattr(model, "cfg", None), "device", None)
        where = as_device(device) if device is not None else str(own or "cpu")
        kind = str(as_dtype(dtype)).removeprefix("torch.")
        sae, name, config = (source, source.get_name(), {}) if is_object else read_sae(source, loader, where, kind)
        sae = for_inference(sae)
        check_usable(sae, name)
        check_keys(sae, name, config)
        found, site = _place(sae, name, layer, config)
        loaded = LoadedSae(centred(sae, name), name, found, site)
        logger.info("SAE %s: %d latents at %s", name, loaded.d_sae, loaded.hook_name)
    if layer is not None and layer != loaded.layer:
        raise ValueError(f"hook: {loaded.source} reads {loaded.hook_name}, and layer {layer} was asked for")
    if model is not None:
        check_fit(loaded, model, any_model=any_model)
    return loaded


def load_saes(saes: SaeLike | Mapping[int, SaeLike], **options: Any) -> dict[int, LoadedSae]:
    """By layer: of one SAE, of a folder of SAE folders (as a training leaves it), or of {layer: SAE}; options as for
    `load_sae`.

    Raises:
        ValueError: as `load_sae`; no SAE at all, two SAEs of one layer.
    """
    if options.get("model") is not None:
        options["model"] = hooked_model(options["model"])
    if isinstance(saes, str | Path) and (folders := _folders(Path(saes))):
        loaded = [load_sae(folder, **options) for folder in folders]
        if twice := {sae.layer for sae in loaded if [other.layer for other in loaded].count(sae.layer) > 1}:
            raise ValueError(f"{saes} holds several SAEs of layers {sorted(twice)}; give the folder of one SAE")
        return {sae.layer: sae for sae in sorted(loaded, key=lambda sae: sae.layer)}
    if not isinstance(saes, Mapping):
        loaded = load_sae(saes, **options)
        return {loaded.layer: loaded}
    if not saes:
        raise ValueError("no SAE given; expected at least one")
    return {layer: load_sae(source, layer=layer, **options) for layer, source in sorted(saes.items())}


def _folders(folder: Path) -> list[Path]:
    """The SAE folders in a folder that is none itself."""
    if not folder.is_dir() or (folder / "cfg.json").exists():
        return []
    return sorted(path.parent for path in folder.glob("*/cfg.json"))


def _place(sae: Any, name: str, layer: int | None, config: Mapping[str, Any]) -> tuple[int, str]:
    """Block and site; of a configuration as it was read, because SAELens drops some of its keys."""
    said = {**flat(config), **{key: value for key, value in flat(sae.cfg.to_dict()).items() if value is not None}}
    hook = hook_of(said)
    if hook is None and layer is not None:
        return layer, STREAM
    found = place_of(hook)
    if found is None:
        raise ValueError(
            f"hook: {name} reads {hook!r}; expected the residual stream after a block, such as "
            "'blocks.5.hook_resid_post' or 'model.layers.5', or 'blocks.5.hook_resid_mid' or 'blocks.5.hook_mlp_out'"
            + ("; pass layer= for an SAE that does not say" if hook is None else "")
        )
    if str(said.get("hook_layer", "")).isdigit() and f".{said['hook_layer']}." not in f"{hook}.".replace("[", "."):
        warnings.warn(
            f"{name} says hook_layer={said['hook_layer']} and reads {hook}, which is followed",
            SaeMoralWarning,
            stacklevel=3,
        )
    return found


# Does it belong to a model?


def check_fit(sae: LoadedSae, model: HookedModel, *, any_model: bool = False) -> None:
    """Refuse an SAE that is not of this model; warn where it is of the base model and this one is the chat model.

    Args:
        sae: the SAE.
        model: the model it is to be used with.
        any_model: only warn when the names of the models differ (a fine-tuned copy, a folder with another name).

    Raises:
        ValueError: another width, a block the model does not have, a stream with its mean where the SAE reads one
            without, or another model.
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
    _check_centred(sae, model, name)
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


def _check_centred(sae: LoadedSae, model: HookedModel, name: str) -> None:
    """TransformerLens' `center_writing_weights` takes the mean over dimensions out of the stream: of the weights that
    write to it, embeddings among them; only where every norm takes it out again (LayerNorm, not RMSNorm)."""
    metadata = sae.sae.cfg.metadata
    said = (metadata.model_from_pretrained_kwargs or {}).get("center_writing_weights")
    if (said or metadata.centring == FOLDED) and "RMS" in str(getattr(model.cfg, "normalization_type", None)):
        raise ValueError(
            f"{sae.source} says that it reads a stream whose mean over dimensions was taken out "
            f"(center_writing_weights), and {name} has RMSNorm, of which TransformerLens takes out none; set "
            "center_writing_weights to false in its model_from_pretrained_kwargs if it was trained on such a model"
        )
    embedding = getattr(model, "W_E", None)
    if said is not False or embedding is None:
        return
    rows = embedding[: min(1000, len(embedding))].detach().float()
    if rows.mean(dim=1).abs().max() < 1e-4 * rows.abs().max():
        problem = "reads the stream as it is, and the mean over dimensions was taken out of that of"
        warnings.warn(f"{sae.source} {problem} {name} (center_writing_weights)", SaeMoralWarning, stacklevel=3)


def _trained_on(sae: LoadedSae) -> str:
    return f" (it was trained on {sae.model_name})" if sae.model_name else ""
