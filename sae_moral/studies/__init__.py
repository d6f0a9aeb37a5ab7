"""Work of hours in cells that are never done twice: atlas, sweep, SAEs side by side, latents."""

from sae_moral.studies.sweep_results import Sweep, SweepRow
from sae_moral.studies.sweep_run import sweep

__all__ = ["Sweep", "SweepRow", "sweep"]
