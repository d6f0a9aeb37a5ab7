"""Load any SAE that SAELens can read, and feed it exactly what it was trained on.

What is read from its configuration, never assumed: the hook, the model, whether the decoder bias is subtracted from
the input, how the input is normalised, and whether prompts begin with BOS. Normalisation that SAELens applies at run
time (`layer_norm`, `constant_norm_rescale`) acts on each vector given: on a token's, or on a scenario's mean. What each
key of the configuration does stands in `compatibility.KEYS`.

An SAE is an object, or comes from SAELens' list, any repository on the hub, or a folder in one of two layouts; SAELens'
own loaders do the reading. One is corrected: its `sparsify` loader transposes `W_dec`, which EleutherAI/sparsify writes
as SAELens itself does (latents × inputs), so that a real file does not load; and it leaves `b_dec` in the input where
`normalize_decoder` is set, while sparsify's `encode` always subtracts it (unless the coder is a transcoder). Folders
written by a training or an operation hold a record with the checksums of their files, which are checked.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_moral.capture.models import hooked_model
from sae_moral.errors import DataError, SaeMoralWarning, unknown
from sae_moral.io import check_files, read_json, read_record
from sae_moral.provenance import HookedModel
from sae_moral.sae.compatibility import ELEMENTWISE, check_usable, model_family, model_name
from sae_moral.shown import shown

RECORDS = {"sae_moral.json": "trained_sae", "surgery.json": "surgery"}
"""Records beside the weights of an SAE made here, with their kinds; since schema version 2 they hold `files`, the
checksum of every other file."""
RECORD_SCHEMA = 2
_RESIDUAL = re.compile(r"blocks\.(\d+)\.(hook_resid_post|hook_out|hook_resid_pre|hook_in)")


@shown(facts=lambda sae: {"source": sae.source, "layer": sae.layer, "d_in": sae.d_in, "d_sae": sae.d_sae})
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
    model: HookedModel | nn.Module | None = None,
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
    model = None if model is None else hooked_model(model)
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
    write to it, embeddings among them."""
    said = (sae.sae.cfg.metadata.model_from_pretrained_kwargs or {}).get("center_writing_weights")
    if said is None:
        return
    embedding = getattr(model, "W_E", None)
    if embedding is None:
        return
    rows = embedding[: min(1000, len(embedding))].detach().float()
    is_centred = bool(rows.mean(dim=1).abs().max() < 1e-4 * rows.abs().max())
    if said and not is_centred:
        raise ValueError(
            f"{sae.source} reads a stream whose mean over dimensions was taken out (center_writing_weights), and that "
            f"of {name} is not; give HookedTransformer.from_pretrained(..., center_writing_weights=True) as the model"
        )
    if is_centred and not said:
        problem = "reads the stream as it is, and the mean over dimensions was taken out of that of"
        warnings.warn(f"{sae.source} {problem} {name} (center_writing_weights)", SaeMoralWarning, stacklevel=3)


def _trained_on(sae: LoadedSae) -> str:
    return f" (it was trained on {sae.model_name})" if sae.model_name else ""


# SAELens objects


def for_inference(sae: Any) -> Any:
    """What SAELens would save of an SAE in training: a BatchTopK becomes a JumpReLU with its threshold."""
    from sae_lens import TrainingSAE

    if not isinstance(sae, TrainingSAE):
        return sae
    state = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state)
    return assembled(sae.cfg.get_inference_sae_cfg_dict(), state, sae.device)


def assembled(config: dict[str, Any], state: dict[str, Tensor], device: torch.device | str) -> Any:
    """An SAELens object around given weights, without copying them."""
    from sae_lens import SAE

    made = SAE.from_dict({**config, "device": "meta"})
    made.load_state_dict(state, assign=True)
    made.cfg.device, made.device = str(device), torch.device(device)
    return made


# Where an SAE comes from


def read_sae(source: Any, loader: str | None, device: str, dtype: str) -> tuple[Any, str]:
    """The SAELens object of a folder, a (release, id) or a `release/id`, and what to call it.

    Raises:
        ValueError: nothing of that name.
        DataError: files that cannot be read as an SAE, or are not those that their record was written with.
    """
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        folder = Path(source)
        return _guarded(lambda: _from_folder(folder, loader, device, dtype), folder.name, folder), folder.name
    release, sae_id = source if isinstance(source, tuple) else _split(str(source))
    name = f"{release}/{sae_id}"
    _check_listed(release, sae_id)
    return _guarded(lambda: _from_hub(release, sae_id, loader, device, dtype), name), name


def _guarded(read: Callable[[], Any], name: str, folder: Path | None = None) -> Any:
    try:
        return read()
    except (MemoryError, DataError):
        raise
    # What a damaged file raises depends on its format: JSON, safetensors, zip, pickle and torch each have their own.
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()
        raise DataError(
            f"cannot load the SAE {name}: {' '.join(line.strip() for line in reason[:3])} ({type(error).__name__}); "
            "expected the files of one SAE in a layout SAELens reads, complete and unchanged",
            file=folder,
        ) from error


def _from_folder(folder: Path, loader: str | None, device: str, dtype: str) -> Any:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import sae_lens_disk_loader

    check_recorded(folder)
    layouts = {
        "sae_lens": ("sae_weights.safetensors", sae_lens_disk_loader),
        "sparsify": ("sae.safetensors", _sparsify),
    }
    if loader is not None and loader not in layouts:
        raise unknown("loader for a folder", loader, layouts)
    for name, (weights, converter) in layouts.items():
        if loader == name or (loader is None and (folder / weights).exists() and (folder / "cfg.json").exists()):
            return SAE.load_from_disk(folder, device=device, dtype=dtype, converter=converter)
    held = sorted(path.name for path in folder.iterdir())[:8]
    raise FileNotFoundError(
        f"no cfg.json beside sae_weights.safetensors (SAELens) or sae.safetensors (sparsify); the folder holds {held}"
    )


def check_recorded(folder: Path) -> None:
    """Check the files of an SAE made here against the checksums in its record; nothing without such a record.

    Raises:
        DataError: a damaged record, or a file that is missing or not the one the record was written with.
    """
    for name, kind in RECORDS.items():
        path = folder / name
        # Version 0.1 wrote trained SAEs' records without a kind and operations' without checksums.
        if path.exists() and isinstance(found := read_json(path), dict) and not found.keys().isdisjoint(_OURS):
            _, content = read_record(path, kind, RECORD_SCHEMA, checked_from=2)
            check_files(folder, content.get("files", {}))


_OURS = {"kind", "schema_version", "checksum"}


def _from_hub(release: str, sae_id: str, loader: str | None, device: str, dtype: str) -> Any:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS

    if loader is not None and loader not in NAMED_PRETRAINED_SAE_LOADERS:
        raise unknown("loader", loader, NAMED_PRETRAINED_SAE_LOADERS)
    converter = NAMED_PRETRAINED_SAE_LOADERS[loader] if loader else None
    if loader == "sparsify":
        converter = _sparsify_from_hub
    return SAE.from_pretrained(release, sae_id, device=device, dtype=dtype, converter=converter)


def _sparsify_from_hub(
    repo_id: str, folder_name: str, device: str, force_download: bool, cfg_overrides: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any], None]:
    from sae_lens.loading import pretrained_sae_loaders as loaders

    # The configuration's folder is the cache's; both files are fetched before it is read.
    loaders.hf_hub_download(repo_id, f"{folder_name}/sae.safetensors", force_download=force_download)
    cfg = loaders.hf_hub_download(repo_id, f"{folder_name}/cfg.json", force_download=force_download)
    config, weights = _sparsify(Path(cfg).parent, device, cfg_overrides)
    return config, weights, None


def _sparsify(
    path: str | Path, device: str = "cpu", cfg_overrides: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    from sae_lens.loading.pretrained_sae_loaders import sparsify_disk_loader

    theirs = read_json(Path(path) / "cfg.json", what="a configuration")
    for key in ("transcode", "skip_connection", "signed"):
        if theirs.get(key):
            raise ValueError(f"a sparsify coder with {key}=true; expected an SAE of non-negative latents")
    if theirs.get("activation", "topk") != "topk":
        raise ValueError(f"a sparsify coder with activation {theirs['activation']!r}; expected topk")
    config, weights = sparsify_disk_loader(path, device, cfg_overrides)
    if weights["W_dec"].shape == (config["d_in"], config["d_sae"]):
        weights["W_dec"] = weights["W_dec"].T.contiguous()
    weights["W_enc"] = weights["W_enc"].contiguous()
    config["apply_b_dec_to_input"] = True
    return config, weights


def _split(source: str) -> tuple[str, str]:
    """`release/id` into its two parts; both may contain slashes."""
    parts = source.split("/")
    listed = _listed()
    for end in range(len(parts) - 1, 0, -1):
        if "/".join(parts[:end]) in listed:
            return "/".join(parts[:end]), "/".join(parts[end:])
    if len(parts) >= 3:
        return "/".join(parts[:2]), "/".join(parts[2:])
    raise unknown("SAE", source, ["a folder", "release/id", *_closest(parts[0], listed)])


def _check_listed(release: str, sae_id: str) -> None:
    listed = _listed()
    if release not in listed:
        if "/" not in release:
            raise unknown("SAE release", release, _closest(release, listed))
    elif sae_id not in listed[release].saes_map:
        raise unknown(f"SAE of {release}", sae_id, _closest(sae_id, listed[release].saes_map))


def _listed() -> dict[str, Any]:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return get_pretrained_saes_directory()


def _closest(given: str, names: Iterable[str]) -> list[str]:
    """A few of the names: the list has thousands."""
    names = list(names)
    return difflib.get_close_matches(given, names, n=6, cutoff=0.3) or names[:6]
