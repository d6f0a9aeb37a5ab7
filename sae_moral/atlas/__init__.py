"""Many models, one report: which of them are alike inside, and where."""

from sae_moral.atlas.plan import Entry, Plan, read_plan
from sae_moral.atlas.result import Atlas
from sae_moral.atlas.run import atlas

__all__ = ["Atlas", "Entry", "Plan", "atlas", "read_plan"]
