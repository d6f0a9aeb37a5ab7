"""Text → representations: models, tokens, hook resolution, pooling, the on-disk store.

The only room that touches tokens, masks and hook names.
"""

from sae_moral.capture.bundled import BUNDLED
from sae_moral.capture.models import hooked_model, load_model
from sae_moral.capture.readers import POOLINGS
from sae_moral.capture.run import capture
from sae_moral.capture.vectors import Representations

__all__ = ["BUNDLED", "POOLINGS", "Representations", "capture", "hooked_model", "load_model"]
