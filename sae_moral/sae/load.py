"""Load any SAE that SAELens can read, and feed it exactly what it was trained on.

What is read from its configuration, never assumed: the hook, the model, whether the decoder bias is subtracted from
the input, how the input is normalised, and whether prompts begin with BOS. Normalisation that SAELens applies at run
time (`layer_norm`, `constant_norm_rescale`) acts on each vector given: on a token's, or on a scenario's mean.
Normalisation by a constant of the training data (`expected_average_only_in`, `covariance_whitening`) has to be folded
into the weights; SAELens silently ignores one that is not, and here it is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.sae.fit import check_fit
from sae_moral.sae.sources import read_sae
from sae_moral.sae.usable import assembled, check_usable, for_inference

ELEMENTWISE = ("standard", "jumprelu", "gated")
"""Architectures in which a latent depends on its own encoder column only, so that a few can be computed alone."""
_RESIDUAL = re.compile(r"blocks\.(\d+)\.(hook_resid_post|hook_out|hook_resid_pre|hook_in)")


@dataclass(frozen=True, eq=False)
class LoadedSae:
    """An SAE of the residual stream after one block.

    Attributes:
        sae: the SAELens object, for inference.
        source: what to call it: `release/id`, the folder's name, or its own name.
        layer: the block after which it reads the residual stream.
    """

    sae: Any
    source: str
    layer: int

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
        """How prompts begin: `prepend` (a BOS, SAELens' default) or `tokenizer` (whatever that adds)."""
        default = "tokenizer" if self.sae.cfg.metadata.prepend_bos is False else "prepend"
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
        digest = hashlib.sha256(repr(sorted(self._settings().items())).encode())
        for name, value in sorted(self.sae.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

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
    model: Any = None,
    layer: int | None = None,
    loader: str | None = None,
    dtype: str = "float32",
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
        dtype: the one its weights are cast to; not for an object.
        device: where to load it; by default the model's device, or the CPU. Not for an object.
        any_model: accept an SAE of a model with another name.

    Raises:
        ValueError: no such SAE, damaged files, not an SAE of the residual stream, an input path that cannot be
            followed, or one that does not fit the model or the layer.
    """
    if isinstance(source, LoadedSae):
        loaded = source
    else:
        is_object = hasattr(source, "encode") and hasattr(source, "cfg")
        where = str(device or getattr(getattr(model, "cfg", None), "device", None) or "cpu")
        sae, name = (source, source.get_name()) if is_object else read_sae(source, loader, where, dtype)
        sae = for_inference(sae)
        check_usable(sae, name)
        loaded = LoadedSae(sae, name, _layer_of(sae, name, layer))
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


def _layer_of(sae: Any, name: str, layer: int | None) -> int:
    hook = sae.cfg.metadata.hook_name
    if hook is None and layer is not None:
        return layer
    match = _RESIDUAL.fullmatch(str(hook))
    before = match is not None and match.group(2) in ("hook_resid_pre", "hook_in")
    # The stream before block l is the one after block l − 1; before block 0 it is the embedding.
    found = int(match.group(1)) - before if match else -1
    if found < 0:
        raise ValueError(
            f"hook: {name} reads {hook!r}; expected the residual stream after a block, such as "
            "'blocks.5.hook_resid_post'" + ("; pass layer= for an SAE that does not say" if hook is None else "")
        )
    return found
