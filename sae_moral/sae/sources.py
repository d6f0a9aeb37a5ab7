"""Where an SAE comes from: SAELens' list, any repository on the hub, or a folder in one of two layouts.

SAELens' own loaders do the reading. One is corrected: its `sparsify` loader transposes `W_dec`, which
EleutherAI/sparsify writes as SAELens itself does (latents × inputs), so that a real file does not load; and it leaves
`b_dec` in the input where `normalize_decoder` is set, while sparsify's `encode` always subtracts it (unless the coder
is a transcoder).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sae_moral.errors import unknown


def read_sae(source: Any, loader: str | None, device: str, dtype: str) -> tuple[Any, str]:
    """The SAELens object of a folder, a (release, id) or a `release/id`, and what to call it.

    Raises:
        ValueError: nothing of that name, or files that cannot be read as an SAE.
    """
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        folder = Path(source)
        return _guarded(lambda: _from_folder(folder, loader, device, dtype), folder.name), folder.name
    release, sae_id = source if isinstance(source, tuple) else _split(str(source))
    name = f"{release}/{sae_id}"
    _check_listed(release, sae_id)
    return _guarded(lambda: _from_hub(release, sae_id, loader, device, dtype), name), name


def _guarded(read: Any, name: str) -> Any:
    try:
        return read()
    except MemoryError:
        raise
    # What a damaged file raises depends on its format: JSON, safetensors, zip, pickle and torch each have their own.
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()
        raise ValueError(
            f"cannot load the SAE {name}: {' '.join(line.strip() for line in reason[:3])} ({type(error).__name__}); "
            "expected the files of one SAE in a layout SAELens reads, complete and unchanged"
        ) from error


def _from_folder(folder: Path, loader: str | None, device: str, dtype: str) -> Any:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import sae_lens_disk_loader

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

    theirs = json.loads((Path(path) / "cfg.json").read_text(encoding="utf8"))
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
