"""`Sampler`: samples of metrics at layers, one layer in memory at a time; what another process is at comes last."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sae_moral.controls.baselines import barring
from sae_moral.controls.checkpoint import Checkpoint
from sae_moral.controls.draws import Draws
from sae_moral.controls.sample import Sampled, Seen, headline_alone, sample
from sae_moral.controls.settings import Controls
from sae_moral.data import MoralData
from sae_moral.metrics import Metric
from sae_moral.metrics.base import declared, folds
from sae_moral.metrics.preprocess import preprocess
from sae_moral.protocol import Protocol

if TYPE_CHECKING:
    from sae_moral.capture import Representations


@dataclass(frozen=True)
class Layer:
    """Vectors at one place.

    Attributes:
        position: among the layers.
        seen: its vectors.
        facts: of the preprocessing.
        data: the scenarios.
    """

    position: int
    seen: Seen
    facts: Mapping[str, float]
    data: MoralData


Of = Callable[[Metric, Layer, bool], "Sampled | None"]
"""A metric's sample at a place, and whether to wait where another process is at it; None if it is not waited for."""


@dataclass
class Sampler:
    """What is measured, of which scenarios, with which draws.

    Attributes:
        checkpoint: through which processes share; None where there is only one.
    """

    data: MoralData
    metrics: Sequence[Metric]
    protocol: Protocol
    controls: Controls
    device: torch.device
    progress: bool | None
    checkpoint: Checkpoint | None

    def __post_init__(self) -> None:
        self.specs = {metric.name: declared(metric) for metric in self.metrics}
        fold = None
        if self.protocol.estimators != "paper" and self.protocol.folds <= len(np.unique(self.data.group)):
            fold = folds(self.data, self.protocol.folds, self.protocol.seed)
        length_is_left = "remove_length" not in self.protocol.preprocessing
        free = "null" in self.controls and length_is_left and self.controls.stratum is not None
        self.draws = Draws(self.data, self.controls, fold, free)

    def layers(
        self,
        representations: Representations,
        what: str,
        positions: Collection[int],
        without: Representations | None = None,
    ) -> Iterator[Layer]:
        """Those at some positions, one in memory at a time."""
        assert self.data.length is not None
        disable = None if self.progress is None else not self.progress
        numbered = [(i, layer) for i, layer in enumerate(representations.layers) if i in positions]
        for position, number in tqdm(numbered, desc=what, unit="layer", disable=disable):
            raw = representations[number].to(self.device)
            prepared, facts = preprocess(raw, self.data.length, self.protocol.preprocessing)
            data = self.data if without is None else barring(self.data, without[number])
            yield Layer(position, Seen(raw, prepared), facts, data)

    def shared(
        self,
        wanted: Mapping[str, Collection[int]],
        seen: Callable[[Collection[int]], Iterator[Layer]],
        of: Of,
    ) -> dict[str, dict[int, Sampled]]:
        """Of each metric its samples, by position: first what no other process is at, then what others were.

        Args:
            wanted: positions, by metric.
            seen: the vectors at some positions, in order.
            of: what is made of each.
        """
        found: dict[str, dict[int, Sampled]] = {name: {} for name in wanted}
        for wait in (False, True):
            left = {name: set(places) - found[name].keys() for name, places in wanted.items()}
            for layer in seen(set().union(*left.values())) if any(left.values()) else ():
                for metric in self.metrics:
                    if layer.position in left.get(metric.name, ()):
                        one = of(metric, layer, wait)
                        if one is not None:
                            found[metric.name][layer.position] = one
        return found

    @property
    def taking_out(self) -> list[Metric]:
        """Metrics whose readers take `MoralData.nuisance` out (`sae_moral.metrics.base.Metric`)."""
        return [metric for metric in self.metrics if hasattr(metric, "remove_length")]

    def sample(self, metric: Metric, layer: Layer, wait: bool, **how: bool) -> Sampled | None:
        """With all that is asked for; None where another process is at it, unless it is waited for."""
        x, data = layer.seen.by(metric), layer.data
        work = partial(sample, metric, self.specs[metric.name], x, data, self.draws, self.controls, **how)
        return self._kept(metric, x, data, how, work, wait)

    def value(self, metric: Metric, layer: Layer, wait: bool) -> Sampled | None:
        """The headline alone, nothing drawn."""
        x, data = layer.seen.by(metric), layer.data
        return self._kept(metric, x, data, {"drawn": False}, partial(headline_alone, metric, x, data), wait)

    def _kept(
        self,
        metric: Metric,
        x: Float[Tensor, "n d"],
        data: MoralData,
        how: Mapping[str, bool],
        work: Callable[[], Sampled],
        wait: bool,
    ) -> Sampled | None:
        if self.checkpoint is None:
            return work()
        return self.checkpoint.sampled(metric, x, data, self.controls, how, work, wait=wait)
