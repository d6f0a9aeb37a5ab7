"""Where an SAE comes from: a folder in one of two layouts, SAELens' list, or any repository on the hub.

SAELens' own loaders do the reading; the configuration is kept as the file says it, because SAELens drops the keys that
it does not know. Two things are put right on the way. Its `sparsify` loader transposes `W_dec`, which
EleutherAI/sparsify writes as SAELens itself does (latents × inputs), so that a real file does not load, and it leaves
`b_dec` in the input where `normalize_decoder` is set, while sparsify's `encode` always subtracts it (unless the coder
is a transcoder). And factors of a finetuning (`finetuning_scaling_factor`), with which SAELens up to 5 multiplied
latents before it decoded them, and which later versions refuse, go into the decoder's rows. Folders written by a
training or an operation hold a record with the checksums of their files, which are checked.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sae_moral.capture.load_errors import hub_answer
from sae_moral.errors import DataError, in_one_line, unknown
from sae_moral.io import check_files, read_json, read_record
from sae_moral.sae.saelens import need_saelens

RECORDS = {"sae_moral.json": "trained_sae", "surgery.json": "surgery"}
"""Records beside the weights of an SAE made here, with their kinds; since schema version 2 they hold `files`, the
checksum of every other file."""
RECORD_SCHEMA = 2
LAYOUTS = {"sae_lens": "sae_weights.safetensors", "sparsify": "sae.safetensors"}
"""Of a folder, by loader: the name of the weights beside cfg.json."""


def read_sae(source: Any, loader: str | None, device: str, dtype: str) -> tuple[Any, str, dict[str, Any]]:
    """The SAELens object of a folder, a (release, id) or a `release/id`, what to call it, and its configuration as it
    was read.

    Raises:
        ValueError: nothing of that name, an unknown loader, a hub that did not give it.
        DataError: files that cannot be read as an SAE, or are not those that their record was written with.
    """
    need_saelens()
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS

    if isinstance(source, (str, Path)) and Path(source).is_dir():
        folder = Path(source)
        if loader not in (None, *LAYOUTS):
            raise unknown("loader for a folder", loader, LAYOUTS)
        sae, config = _guarded(lambda: _from_folder(folder, loader, device, dtype), folder.name, folder)
        return sae, folder.name, config
    release, sae_id = source if isinstance(source, tuple) else _split(str(source))
    name = f"{release}/{sae_id}"
    if loader not in (None, *NAMED_PRETRAINED_SAE_LOADERS):
        raise unknown("loader", loader, NAMED_PRETRAINED_SAE_LOADERS)
    repo_id = _repository(release, sae_id)
    sae, config = _guarded(lambda: _from_hub(release, sae_id, loader, device, dtype), name, repo_id=repo_id)
    return sae, name, config


def _guarded(read: Callable[[], Any], name: str, folder: Path | None = None, *, repo_id: str = "") -> Any:
    try:
        return read()
    except (MemoryError, DataError):
        raise
    # What a damaged file raises depends on its format: JSON, safetensors, zip, pickle and torch each have their own.
    except Exception as error:
        if repo_id and (answer := hub_answer(repo_id, error, "not a folder, and the hub")):
            raise ValueError(f"cannot load the SAE {name}: {answer}") from error
        raise DataError(
            f"cannot load the SAE {name}: {in_one_line(error, 300)} ({type(error).__name__}); "
            "expected the files of one SAE in a layout SAELens reads, complete and unchanged",
            file=folder,
        ) from error


def _from_folder(folder: Path, loader: str | None, device: str, dtype: str) -> tuple[Any, dict[str, Any]]:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import sae_lens_disk_loader

    check_recorded(folder)
    for name, weights in LAYOUTS.items():
        if loader == name or (loader is None and (folder / weights).exists() and (folder / "cfg.json").exists()):
            keeping = _Keeping(sae_lens_disk_loader if name == "sae_lens" else _sparsify)
            return SAE.load_from_disk(folder, device=device, dtype=dtype, converter=keeping), keeping.config
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


def _from_hub(release: str, sae_id: str, loader: str | None, device: str, dtype: str) -> tuple[Any, dict[str, Any]]:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS, get_conversion_loader_name

    layout = loader or get_conversion_loader_name(release)
    keeping = _Keeping(_sparsify_from_hub if layout == "sparsify" else NAMED_PRETRAINED_SAE_LOADERS[layout])
    return SAE.from_pretrained(release, sae_id, device=device, dtype=dtype, converter=keeping), keeping.config


class _Keeping:
    """One of SAELens' loaders, of which the configuration is kept; factors of a finetuning go into the decoder."""

    def __init__(self, converter: Callable[..., Any]) -> None:
        self.converter = converter
        self.config: dict[str, Any] = {}

    def __call__(self, *given: Any, **options: Any) -> Any:
        config, weights, *more = self.converter(*given, **options)
        self.config = dict(config)
        architecture = config.get("architecture", "standard")
        if architecture not in (known := _architectures()):
            raise unknown("architecture", architecture, known)
        if "activation_fn_kwargs" in config and config["activation_fn_kwargs"] is None:
            del config["activation_fn_kwargs"]
        factors = weights.pop("finetuning_scaling_factor", None)
        if factors is not None:
            weights["W_dec"] = factors[:, None] * weights["W_dec"]
            self.config["finetuning_scaling_factor"] = False
        return config, weights, *more


def _architectures() -> list[str]:
    import sae_lens  # noqa: F401  (fills the registry)
    from sae_lens.registry import SAE_CLASS_REGISTRY

    return list(SAE_CLASS_REGISTRY)


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


def _repository(release: str, sae_id: str) -> str:
    """The hub repository of a release that is listed; another is one itself."""
    listed = _listed()
    if release not in listed:
        if "/" not in release:
            raise unknown("SAE release", release, _closest(release, listed))
        return release
    if sae_id not in listed[release].saes_map:
        raise unknown(f"SAE of {release}", sae_id, _closest(sae_id, listed[release].saes_map))
    return listed[release].repo_id


def _listed() -> dict[str, Any]:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return get_pretrained_saes_directory()


def _closest(given: str, names: Iterable[str]) -> list[str]:
    """A few of the names: the list has thousands."""
    names = list(names)
    return difflib.get_close_matches(given, names, n=6, cutoff=0.3) or names[:6]
