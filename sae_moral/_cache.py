"""Where downloads and conversions are kept, and whether the network may be used."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

OFFLINE_VARIABLES = ("SAE_MORAL_OFFLINE", "HF_HUB_OFFLINE")


def cache_folder(name: str = "") -> Path:
    """The folder `name` in `$SAE_MORAL_CACHE`, else in the user's cache folder. Not created."""
    return Path(os.environ.get("SAE_MORAL_CACHE") or user_cache_path("sae_moral", appauthor=False)) / name


def is_offline(offline: bool | None = None) -> bool:
    """What the caller says; where it says nothing, whether an environment variable of `OFFLINE_VARIABLES` is set to
    anything but 0, false, no or off."""
    if offline is not None:
        return offline
    values = (os.environ.get(name, "").strip().casefold() for name in OFFLINE_VARIABLES)
    return any(value not in ("", "0", "false", "no", "off") for value in values)
