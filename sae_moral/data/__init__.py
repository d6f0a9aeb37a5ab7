"""Scenarios with human moral labels: one file per source, all read into `MoralData`."""

from __future__ import annotations

from sae_moral.data.describe import describe, describe_figure
from sae_moral.data.matching import frequency_bins, match, match_length, word_frequency
from sae_moral.data.moral_data import MoralData
from sae_moral.data.parquet import write_parquet
from sae_moral.data.social_chem_full import build, load_social_chem
from sae_moral.data.sources import list_sources, load_data
from sae_moral.data.splits import group_split, leaks, paper_split
from sae_moral.data.stratified import stratified_sample
from sae_moral.data.verify import verification_table, verify

__all__ = [
    "MoralData",
    "build",
    "describe",
    "describe_figure",
    "frequency_bins",
    "group_split",
    "leaks",
    "list_sources",
    "load_data",
    "load_social_chem",
    "match",
    "match_length",
    "paper_split",
    "stratified_sample",
    "verification_table",
    "verify",
    "word_frequency",
    "write_parquet",
]
