"""Figures, tables and pages: drawing only, of what was computed elsewhere.

The public names load on first use, so that `import sae_moral.report` costs neither matplotlib nor jinja2.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_moral.report.diagnosis_page import render_report, summary_table, write_report
    from sae_moral.report.figures import (
        heatmap_figure,
        layer_figure,
        overview_figure,
        profile_figure,
        statistics_figure,
    )
    from sae_moral.report.save import save_figure

__all__ = [
    "heatmap_figure",
    "layer_figure",
    "overview_figure",
    "profile_figure",
    "render_report",
    "save_figure",
    "statistics_figure",
    "summary_table",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    module = "save" if name == "save_figure" else "figures" if name.endswith("_figure") else "diagnosis_page"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
