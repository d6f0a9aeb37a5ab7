"""The paper's diagnosis sample: the same number of scenarios at every strength of every foundation and pole."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from sae_moral.data.moral_data import MoralData
from sae_moral.errors import DataError
from sae_moral.foundations import FOUNDATIONS, NEUTRAL, VICE, VIRTUE

QUOTAS: dict[float, int] = {0.125: 300, 0.25: 300, 0.375: 300, 0.5: 300, 0.75: 300, 1.0: 150}
"""Typicality -> at most so many records of each foundation and pole (arXiv 2603.15615, §1)."""
NEUTRAL_QUOTA = 300
"""At most so many neutral records of each foundation."""


def stratified_sample(data: MoralData, seed: int = 42) -> MoralData:
    """At most 300 records at each typicality from 0.125 to 0.75 and 150 at 1.0 for every foundation and pole, and 300
    neutral ones for every foundation, in the order of the data. About 16,135 of the 251,334 records.

    The draws are those of the script published with ReSO (`random.Random(seed).sample`, foundation after foundation;
    virtues by typicality, vices by typicality, neutrals), so the same records in the same order with its seed, 42,
    should give its sample. A sample of such a sample is itself. Records of another typicality are left out.

    Raises:
        DataError: no record has one of the typicalities.
    """
    generator = random.Random(seed)
    chosen: list[int] = []
    for foundation in range(len(FOUNDATIONS)):
        own = data.foundation == foundation
        strata = [
            (own & (data.pole == pole) & np.isclose(data.typicality, typicality), quota)
            for pole in (VIRTUE, VICE)
            for typicality, quota in QUOTAS.items()
        ]
        for mask, quota in (*strata, (own & (data.pole == NEUTRAL), NEUTRAL_QUOTA)):
            rows = np.flatnonzero(mask).tolist()
            chosen += generator.sample(rows, min(quota, len(rows)))
    if not chosen:
        levels = ", ".join(f"{typicality:g}" for typicality in QUOTAS)
        raise DataError(f"nothing to sample: no neutral record of a foundation and none of typicality {levels}")
    part = data.subset(np.sort(np.array(chosen, dtype=np.int64)))
    quotas = {f"{typicality:g}": quota for typicality, quota in QUOTAS.items()} | {"neutral": NEUTRAL_QUOTA}
    drawn = {"n": len(part), "of": len(data), "seed": seed, "quotas": quotas}
    return replace(part, provenance={**data.provenance, "stratified": drawn})
