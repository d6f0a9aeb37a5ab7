"""Protocols: every choice that shapes a measurement, under one name.

`paper` is arXiv 2603.15615 to the letter, to compare with published numbers. `audited` is what we trust. A third one is
`dataclasses.replace(AUDITED, name="mine", ...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sae_moral.errors import unknown


@dataclass(frozen=True)
class Protocol:
    """Attributes:
    name: what provenance calls it.
    template: the prompt, with `{text}` for the scenario.
    pooling: which tokens a vector is the mean of (`sae_moral.capture.POOLINGS`).
    bos: `tokenizer` (whatever it adds by itself), `prepend` (exactly one, in front) or `none`.
    preprocessing: steps applied to every layer's vectors, in order (`sae_moral.metrics.preprocess`).
    estimators: `paper` or `audited`: which form of each built-in metric is used.
    folds: number of cross-fitting folds, by groups of text.
    groups: what is held together in folds, draws and permutations: `equal` texts or `near` ones, too
        (`MoralData.regrouped`), unless the data say something else.
    seed: of the folds and of everything else that draws.
    """

    name: str
    template: str
    pooling: str
    bos: str
    preprocessing: tuple[str, ...]
    estimators: str
    folds: int = 5
    seed: int = 0
    groups: str = "equal"


PAPER = Protocol(
    name="paper",
    template="{text} is morally",
    pooling="all",
    bos="tokenizer",
    preprocessing=("centre",),
    estimators="paper",
)
AUDITED = Protocol(
    name="audited",
    template="{text}",
    pooling="scenario",
    bos="prepend",
    preprocessing=("standardise", "remove_length"),
    estimators="audited",
    groups="near",
)
PROTOCOLS: dict[str, Protocol] = {"paper": PAPER, "audited": AUDITED}


def get_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of that name, or the given one.

    Raises:
        ValueError: unknown name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol]


def parse_layers(layers: str | int | Sequence[int], n_layers: int) -> list[int]:
    """Layer numbers, ascending, from `all`, a number, `0,5,9`, `0:30:5` (stop excluded), or a sequence; negative
    numbers count from the last.

    Raises:
        ValueError: something else, none at all, or a layer the model does not have.
    """
    try:
        if layers == "all":
            numbers = list(range(n_layers))
        elif isinstance(layers, str) and ":" in layers:
            numbers = list(range(n_layers))[slice(*(int(part) if part.strip() else None for part in layers.split(":")))]
        elif isinstance(layers, str):
            numbers = [int(part) for part in layers.split(",")]
        else:
            numbers = [layers] if isinstance(layers, int) else [int(layer) for layer in layers]
    except (ValueError, TypeError) as error:
        raise ValueError(f"layers {layers!r}; expected 'all', a number, '0,5,9' or '0:30:5'") from error
    outside = [layer for layer in numbers if not -n_layers <= layer < n_layers]
    if outside or not numbers:
        raise ValueError(
            f"layers {layers!r} of a model with {n_layers} blocks (0 to {n_layers - 1}): {outside or 'none selected'}"
        )
    return sorted({layer % n_layers for layer in numbers})
