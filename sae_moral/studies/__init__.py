"""Long work in keyed, resumable cells: atlases of models, sweeps, SAEs side by side, moral latents and their page.

Everything is imported when first used. No module here is called like a function of its own: the function would then be
hidden by the module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_moral.studies.atlas_page import Atlas
    from sae_moral.studies.atlas_results import (
        AtlasEntry,
        AtlasResult,
        LayerSimilarity,
        PairSimilarity,
        ProfileCorrelation,
    )
    from sae_moral.studies.atlas_run import atlas
    from sae_moral.studies.compared_saes import ComparedSaes, ReseedNoise, SaeComparison, compare_saes
    from sae_moral.studies.latents_page import latents_with_page, write_latents_report
    from sae_moral.studies.plan import Entry, Plan, read_plan
    from sae_moral.studies.result_figures import result_figure
    from sae_moral.studies.study import Cell, Done, Study
    from sae_moral.studies.sweep_results import SweepRow
    from sae_moral.studies.sweep_run import Sweep, sweep

_HOME = {
    "Atlas": "atlas_page",
    "AtlasEntry": "atlas_results",
    "AtlasResult": "atlas_results",
    "LayerSimilarity": "atlas_results",
    "PairSimilarity": "atlas_results",
    "ProfileCorrelation": "atlas_results",
    "atlas": "atlas_run",
    "ComparedSaes": "compared_saes",
    "ReseedNoise": "compared_saes",
    "SaeComparison": "compared_saes",
    "compare_saes": "compared_saes",
    "latents_with_page": "latents_page",
    "write_latents_report": "latents_page",
    "Entry": "plan",
    "Plan": "plan",
    "read_plan": "plan",
    "result_figure": "result_figures",
    "Sweep": "sweep_run",
    "SweepRow": "sweep_results",
    "sweep": "sweep_run",
    "Cell": "study",
    "Done": "study",
    "Study": "study",
}

__all__ = [
    "Atlas",
    "AtlasEntry",
    "AtlasResult",
    "Cell",
    "ComparedSaes",
    "Done",
    "Entry",
    "LayerSimilarity",
    "PairSimilarity",
    "Plan",
    "ProfileCorrelation",
    "ReseedNoise",
    "SaeComparison",
    "Study",
    "Sweep",
    "SweepRow",
    "atlas",
    "compare_saes",
    "latents_with_page",
    "read_plan",
    "result_figure",
    "sweep",
    "write_latents_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'sae_moral.studies' has no attribute {name!r}")
    value = getattr(import_module(f"sae_moral.studies.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
