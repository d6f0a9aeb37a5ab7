"""Why a model or an SAE was not loaded, in one line: what the libraries said, all of it, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import version

import torch

from sae_moral.errors import in_one_line, nearest, package_of

_OFFLINE = ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ConnectionError")
NO_FILE = "does not appear to have"
"""What transformers says of a file that a repository lacks."""


def why(name: str, kind: str, error: BaseException, bundled: Iterable[str] = ()) -> str:
    """What to tell of an error in loading a model.

    Args:
        name: as the user gave it.
        kind: `hub name`, `folder` or `file`; `object` for one that is in memory.
        error: what a library raised.
        bundled: names that need no hub.
    """
    said = in_one_line(error)
    found = _of_machine(said, error)
    if found is None and kind == "hub name":
        unknown = f"not a bundled model ({nearest(name, bundled)}), not a local folder, and the hub"
        found = hub_answer(name, error, unknown) or _of_files(said, error) or f"{unknown} did not give it: {said}"
    if found is None:
        what = "TransformerLens cannot wrap it" if kind == "object" else f"a {kind} without a readable model"
        found = f"{what}: {said}"
    return f"cannot load {name!r}: {found}"


def _of_machine(said: str, error: BaseException) -> str | None:
    """What is missing here, or what the libraries cannot do; None when it is the files."""
    if missing := _missing_package(said, error):
        return missing
    if isinstance(error, torch.OutOfMemoryError):
        return f"too little memory on the device ({said}); use a smaller dtype, device_map, or the CPU"
    if "trust_remote_code" in said:
        return f"it brings code of its own ({said}); if you trust its authors: trust_remote_code=True"
    if re.match("Unsupported architecture|Could not determine supported architecture|Unrecognized configuration", said):
        found = re.search(r"Config architectures: .*", said)  # without the list of all that there are
        ours, kind = version("transformer-lens"), found[0] if found else said
        return (
            f"TransformerLens {ours} has no bridge for a model of this kind ({kind}); "
            "expected an architecture that transformer_lens.model_bridge knows, or that you registered there"
        )
    if "does not recognize this architecture" in said:
        return f"transformers does not know this architecture; a newer version may ({said})"
    if "device" in said and re.search("mutually exclusive|requires CUDA|CUDA devices|device_map|max_memory", said):
        return said
    return None


def _missing_package(said: str, error: BaseException) -> str | None:
    if not isinstance(error, ImportError):
        return None
    named = re.search(r"pip install (?:-\S+ )*['\"]?([\w.+:/@-]*\w)", said)
    package = named[1] if named else package_of(error)
    how = f"pip install {package}" if package else "install what it names"
    return f"it needs a package that is not installed ({said}); {how}"


def hub_answer(repo_id: str, error: BaseException, unknown: str) -> str | None:
    """What the hub answered, or that it did not, and what to do; None for an error of another kind.

    Args:
        repo_id: the repository that was asked for.
        error: what a library raised.
        unknown: begins the sentence where there may be no such repository: "not a local folder, and the hub".
    """
    from huggingface_hub import is_offline_mode

    said, kinds = in_one_line(error), _kinds(error)
    status = next((found for one in _chain(error) if (found := _status(one)) is not None), None)
    page = f"https://huggingface.co/{repo_id}"
    if "GatedRepoError" in kinds:
        return (
            f"a gated repository: {said}; accept its licence at {page}, then log in (`hf auth login`, or a token of "
            "that account in HF_TOKEN)"
        )
    if "RevisionNotFoundError" in kinds:
        return f"{said}; its branches and tags: {page}/refs"
    if "RepositoryNotFoundError" in kinds:
        return f"{unknown} has no such repository, or a private one: {said}"
    if "HFValidationError" in kinds:
        return f"{unknown} has no names like this: {said}"
    if status == 429:
        return f"the hub has had too many requests from here: {said}; wait, or log in (`hf auth login`)"
    if status is not None and status >= 500:
        return f"the hub is out of order (HTTP {status}): {said}; try again later"
    if kinds & set(_OFFLINE):
        reached, how = (
            ("was not asked (offline)", "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE where there is a connection")
            if is_offline_mode()
            else ("could not be reached", "check the connection")
        )
        return f"{unknown} {reached}, and it is not in the cache: {said}; {how}, or copy it here and give its folder"
    return None


def _of_files(said: str, error: BaseException) -> str | None:
    """What is wrong with the files of a repository."""
    if NO_FILE in said:
        return (
            f"the repository holds no model in Hugging Face format: {said}; for one of its GGUF files: "
            "load_model(name, gguf_file='FILE.gguf')"
        )
    if "SafetensorError" in _kinds(error):
        return f"a damaged file in the cache: {said}; download it again: load_model(name, force_download=True)"
    return None


def _kinds(error: BaseException) -> set[str]:
    """Names of the types of an error and of what caused it."""
    return {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
