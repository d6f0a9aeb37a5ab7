"""How a diagnosis reads a model: the residual stream, or the latents of SAEs; a twin with random weights alike."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral.capture import Representations, capture
from sae_moral.errors import SaeMoralWarning
from sae_moral.protocol import Protocol

if TYPE_CHECKING:
    from sae_moral.sae import LoadedSae
    from sae_moral.sae.load import SaeLike


@dataclass(frozen=True)
class Reader:
    """Attributes:
    text: the scenarios.
    layers: blocks, ascending.
    protocol: template, pooling and BOS.
    saes: one per layer; None for the stream itself.
    store: folder for the stream's vectors.
    """

    text: Sequence[str]
    layers: Sequence[int]
    protocol: Protocol
    saes: Mapping[int, LoadedSae] | None
    store: str | Path | None
    progress: bool | None

    def stream(self, model: Any) -> Representations:
        """The residual stream, pooled."""
        return capture(
            model, self.text, layers=self.layers, store=self.store, progress=self.progress, **self._prompts()
        )

    def latents(self, model: Any) -> Representations:
        """What the SAEs encode of it; the stream where there are none.

        Warns:
            SaeMoralWarning: a protocol that reads other prompts than an SAE was trained on.
        """
        if self.saes is None:
            return self.stream(model)
        from sae_moral.sae import latent_representations
        from sae_moral.sae.find_latents import warn_of_prompts

        with warnings.catch_warnings():
            # That they fit was checked when they were loaded; a twin with random weights goes by another name.
            warnings.simplefilter("ignore", SaeMoralWarning)
            found = latent_representations(
                model, self.text, self.saes, progress=self.progress, any_model=True, **self._prompts()
            )
        warn_of_prompts(found)
        return found

    def _prompts(self) -> dict[str, Any]:
        chosen = self.protocol
        return {"template": chosen.template, "pooling": chosen.pooling, "bos": chosen.bos}


def load_saes_of(
    sae: SaeLike | Mapping[int, SaeLike], model: Any, layers: Sequence[int] | None
) -> dict[int, LoadedSae]:
    """The SAEs of the layers that are asked for (None: of all there are), checked against the model.

    Raises:
        ValueError: as `load_saes`; a layer without one.
    """
    from sae_moral.sae import load_saes

    loaded = load_saes(sae, model=model)
    wanted = list(loaded) if layers is None else layers
    if missing := sorted(set(wanted) - set(loaded)):
        raise ValueError(f"layers {missing} were asked for, and there are SAEs of {sorted(loaded)}; give one for each")
    return {layer: loaded[layer] for layer in wanted}
