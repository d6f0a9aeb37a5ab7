"""Surgery: train a few latents of an SAE on moral labels, everything else frozen; the result is an ordinary SAE."""

from sae_moral.surgery.evaluate import CONTROLS, summary
from sae_moral.surgery.operate import operate
from sae_moral.surgery.operation import Operation, SurgeryRecord
from sae_moral.surgery.push import Pushed, push
from sae_moral.surgery.settings import DEFAULT, PAPER, SETTINGS, SurgerySettings, get_settings

__all__ = [
    "CONTROLS",
    "DEFAULT",
    "PAPER",
    "SETTINGS",
    "Operation",
    "Pushed",
    "SurgeryRecord",
    "SurgerySettings",
    "get_settings",
    "operate",
    "push",
    "summary",
]
