"""Figures and the self-contained HTML page of a diagnosis.

The public names load on first use, so that `import sae_moral.report` costs neither matplotlib nor jinja2.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_moral.report.diagnosis_page import render_report, write_report
    from sae_moral.report.figures import layer_figure, overview_figure, statistics_figure
    from sae_moral.report.heatmap import heatmap_figure
    from sae_moral.report.profiles import profile_figure

__all__ = [
    "heatmap_figure",
    "layer_figure",
    "overview_figure",
    "profile_figure",
    "render_report",
    "statistics_figure",
    "write_report",
]

_ELSEWHERE = {
    "heatmap_figure": "heatmap",
    "profile_figure": "profiles",
    "render_report": "diagnosis_page",
    "write_report": "diagnosis_page",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'figures')}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
