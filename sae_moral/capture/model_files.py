"""What the files behind a model's name are: whole weights, an adapter, a GGUF file; and whether they are all there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_moral.errors import DataError
from sae_moral.io import parse_json, read_text

ADAPTER = "adapter_config.json"
"""The file that makes a folder a PEFT adapter."""


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that a path is, or that a folder holds in the place of a model in Hugging Face format; else None.

    Raises:
        DataError: a folder with several of them, or one that is a part of a model.
    """
    if path.is_dir():
        found = [] if (path / "config.json").exists() else sorted(path.glob("*.gguf"))
        if len(found) > 1 and not _part(found[0]):
            names = ", ".join(one.name for one in found)
            raise DataError(f"a folder with {len(found)} GGUF files and no config.json; name one: {names}", file=path)
    else:
        found = [path] if path.suffix == ".gguf" and path.is_file() else []
    if found and _part(found[0]):
        how = f"llama-gguf-split --merge {found[0].name} whole.gguf"
        raise DataError(f"a part of a GGUF model, which transformers cannot read; join the parts: {how}", file=found[0])
    return found[0] if found else None


def _part(path: Path) -> bool:
    return re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name) is not None


def adapter_of(source: str, hub: Mapping[str, Any]) -> Path | None:
    """The configuration of the adapter that a folder or a hub repository is; None for a whole model.

    transformers applies an adapter that it finds beside whole weights where peft is installed, and ignores it where it
    is not, without a word either time; and such weights may hold the adapter already.

    Args:
        source: a folder or a hub name.
        hub: `revision`, `token` and the like.

    Raises:
        DataError: an adapter beside whole weights.
    """
    from transformers.utils.hub import cached_file
    from transformers.utils.peft_utils import find_adapter_config_file

    found = find_adapter_config_file(source, **hub)
    if found is None:
        return None
    whole = cached_file(source, "config.json", _raise_exceptions_for_missing_entries=False, **hub)
    if whole is not None:
        raise DataError(
            "an adapter beside whole weights, and whether they hold it already cannot be told; move "
            "adapter_config.json and adapter_model.* to a folder of their own: this one then is the model without "
            "it, and that one (with peft installed) the model with it",
            file=found,
        )
    return Path(found)


def adapter_base(adapter: Path) -> tuple[str, str]:
    """The kind of an adapter (LORA, …) and the model that it is for.

    Raises:
        DataError: its configuration does not say.
    """
    about = parse_json(read_text(adapter), file=adapter, what="the configuration of an adapter")
    base = about.get("base_model_name_or_path") if isinstance(about, dict) else None
    if not isinstance(base, str) or not base:
        raise DataError("no base_model_name_or_path: which model the adapter is for is not known", file=adapter)
    return str(about.get("peft_type", "PEFT")), base


def check_files(folder: Path) -> None:
    """Refuse a model's folder with files that were not downloaded, or only in part.

    Raises:
        DataError: such a file.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json", ".model")):
        if path.is_dir():
            continue
        with path.open("rb") as file:
            if file.read(64).startswith(b"version https://git-lfs"):
                raise DataError(
                    "a pointer of Git LFS, not the file itself; run `git lfs pull` in the folder, or download the "
                    "model again",
                    file=path,
                )
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "pt"):  # reads the header, and compares it with the size of the file
                    pass
            except SafetensorError as error:
                raise DataError(f"cut short or damaged ({error}); download the model again", file=path) from error
