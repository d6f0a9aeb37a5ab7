"""Surgery: train a few latents of an SAE on moral labels, everything else frozen; the result is an ordinary SAE."""

from sae_moral.surgery.evaluate import CONTROLS, summary
from sae_moral.surgery.operate import operate
from sae_moral.surgery.operation import Operation
from sae_moral.surgery.push import Pushed, push
from sae_moral.surgery.record import SurgeryRecord
from sae_moral.surgery.settings import DEFAULT, PAPER, SETTINGS, SurgerySettings, get_settings
from sae_moral.surgery.terms import Batch, Term
from sae_moral.surgery.write import WRITES, Scene, WriteTerm, along

__all__ = [
    "CONTROLS",
    "DEFAULT",
    "PAPER",
    "SETTINGS",
    "WRITES",
    "Batch",
    "Operation",
    "Pushed",
    "Scene",
    "SurgeryRecord",
    "SurgerySettings",
    "Term",
    "WriteTerm",
    "along",
    "get_settings",
    "operate",
    "push",
    "summary",
]
