"""Scenarios with human moral labels: one file per source, all read into `MoralData`."""

from __future__ import annotations

from sae_moral.data.describe import describe, describe_figure
from sae_moral.data.moral_data import MoralData
from sae_moral.data.parquet import write_parquet
from sae_moral.data.provenance import Source
from sae_moral.data.social_chem import build, load_social_chem, stratified_sample, verification_table, verify
from sae_moral.data.sources import get_source, list_sources, load_data, register_source
from sae_moral.data.splits import (
    frequency_bins,
    group_split,
    leaks,
    match,
    match_length,
    paper_split,
    word_frequency,
)

__all__ = [
    "MoralData",
    "Source",
    "build",
    "describe",
    "describe_figure",
    "frequency_bins",
    "get_source",
    "group_split",
    "leaks",
    "list_sources",
    "load_data",
    "load_social_chem",
    "match",
    "match_length",
    "paper_split",
    "register_source",
    "stratified_sample",
    "verification_table",
    "verify",
    "word_frequency",
    "write_parquet",
]
