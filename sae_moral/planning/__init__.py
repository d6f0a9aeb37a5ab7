"""`plan`: what a study needs, said before anything is loaded: bytes, forward passes, files and hours, step by step.

What it does not prove. Hours are operations over a rate that was measured for a moment on a machine as busy as it then
was; memory is a sum of what is known to be held, not what an allocator makes of it.
"""

from sae_moral.planning.needs import Needs, Rate, Step
from sae_moral.planning.study import plan

__all__ = ["Needs", "Rate", "Step", "plan"]
