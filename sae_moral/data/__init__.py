"""Scenarios with human moral labels: one file per source, all read into `MoralData`."""

from __future__ import annotations

from sae_moral.data.moral_data import MoralData
from sae_moral.data.sources import list_sources, load_data

__all__ = ["MoralData", "list_sources", "load_data"]
