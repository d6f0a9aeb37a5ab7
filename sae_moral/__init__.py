"""How a language model's inside represents morality, and how far each number can be trusted.

The public names. Everything is imported when first used, so that `from sae_moral import diagnose` costs nothing until
it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_moral.lazy import lazily

if TYPE_CHECKING:
    from sae_moral.capture import Representations, hooked_model, load_model
    from sae_moral.controls import Controls
    from sae_moral.data import MoralData, load_data
    from sae_moral.diagnosis import Diagnosis, diagnose
    from sae_moral.errors import DataError, SaeMoralWarning
    from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, moral_vector
    from sae_moral.metrics import Metric, Statistic, metric, register
    from sae_moral.planning import Needs, plan
    from sae_moral.protocol import AUDITED, PAPER, Protocol
    from sae_moral.results import StatisticSpec

__version__ = "0.2.0"

_HOME = {
    "DataError": "errors",
    "SaeMoralWarning": "errors",
    "Representations": "capture",
    "hooked_model": "capture",
    "load_model": "capture",
    "Controls": "controls",
    "MoralData": "data",
    "load_data": "data",
    "Diagnosis": "diagnosis",
    "diagnose": "diagnosis",
    "DIMENSIONS": "foundations",
    "FOUNDATIONS": "foundations",
    "moral_vector": "foundations",
    "Metric": "metrics",
    "Statistic": "metrics",
    "metric": "metrics",
    "register": "metrics",
    "Needs": "planning",
    "plan": "planning",
    "AUDITED": "protocol",
    "PAPER": "protocol",
    "Protocol": "protocol",
    "StatisticSpec": "results",
}

__all__ = [
    "AUDITED",
    "DIMENSIONS",
    "FOUNDATIONS",
    "PAPER",
    "Controls",
    "DataError",
    "Diagnosis",
    "Metric",
    "MoralData",
    "Needs",
    "Protocol",
    "Representations",
    "SaeMoralWarning",
    "Statistic",
    "StatisticSpec",
    "diagnose",
    "hooked_model",
    "load_data",
    "load_model",
    "metric",
    "moral_vector",
    "plan",
    "register",
]


__getattr__, __dir__ = lazily(__name__, _HOME)
