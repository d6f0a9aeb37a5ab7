"""What not every environment has: tests of it skip with TransformerLens 4, and so without SAELens, which needs 3."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest

of_transformer_lens_3 = pytest.mark.skipif(
    not version("transformer-lens").startswith("3."), reason="what TransformerLens 3 does, and 4 does not"
)
"""Of a test that says so of a fault, a refusal or an option of version 3."""


def transformer_lens_3() -> Any:
    """The package TransformerLens, which has a HookedTransformer."""
    pytest.importorskip("transformer_lens.HookedTransformer", reason="TransformerLens 4 has no HookedTransformer")
    return pytest.importorskip("transformer_lens")


def saelens() -> Any:
    """The package SAELens."""
    return pytest.importorskip("sae_lens", reason="SAELens 6 needs TransformerLens 3", exc_type=ImportError)
