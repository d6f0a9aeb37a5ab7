"""Text → representations: models, tokens, hook resolution, pooling, the on-disk store.

The only room that touches tokens, masks and hook names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_moral.lazy import lazily

if TYPE_CHECKING:
    from sae_moral.capture.bundled import BUNDLED
    from sae_moral.capture.models import hooked_model, load_model
    from sae_moral.capture.readers import POOLINGS
    from sae_moral.capture.run import capture
    from sae_moral.capture.vectors import Representations

__all__ = ["BUNDLED", "POOLINGS", "Representations", "capture", "hooked_model", "load_model"]

_HOME = {
    "BUNDLED": "bundled",
    "POOLINGS": "readers",
    "Representations": "vectors",
    "capture": "run",
    "hooked_model": "models",
    "load_model": "models",
}
__getattr__, __dir__ = lazily(__name__, _HOME)
