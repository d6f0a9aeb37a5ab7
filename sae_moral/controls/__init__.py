"""What says how far a number can be trusted: intervals, nulls, baselines, ceilings."""

from sae_moral.controls.learning_curve import learning_curve
from sae_moral.controls.measure import Measured, measure
from sae_moral.controls.random_weights import random_weights
from sae_moral.controls.settings import DEFAULT, NAMES, Controls, get_controls

__all__ = ["DEFAULT", "NAMES", "Controls", "Measured", "get_controls", "learning_curve", "measure", "random_weights"]
