"""What was drawn of a metric at a layer is written down at once: an interrupted diagnosis goes on from there, and
processes that make the same diagnosis with the same folder share the work.

It is a file per metric and layer, named after a hash of all that shapes what is in it, the vectors themselves among it;
while it is made its lease is held (`io.leases`). The files are no cache: whoever finished removes them, and whoever
still needs one makes it again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_moral.controls.sample import Sampled
from sae_moral.controls.settings import Controls
from sae_moral.data import MoralData
from sae_moral.io import Lease, key, shared, write_bytes
from sae_moral.metrics import Metric, Statistic
from sae_moral.metrics.base import card_of
from sae_moral.provenance import tensor_hash

_DRAWN = ("resampled", "null", "free", "opening")
_BETWEEN = "\t"
"""Between the parts of a tensor's name: no statistic or group has it."""


class Checkpoint:
    """Samples below one folder.

    Attributes:
        folder: made when the first sample is kept.
        found: samples that were there before.
    """

    def __init__(self, folder: str | Path, shaped_by: Mapping[str, Any]) -> None:
        """`shaped_by`: what else shapes samples than what `sampled` is given; JSON values."""
        self.folder, self.found, self._shaped_by = Path(folder), 0, dict(shaped_by)
        self._mine: set[Path] = set()

    def sampled(
        self,
        metric: Metric,
        x: Float[Tensor, "n d"],
        data: MoralData,
        controls: Controls,
        how: Mapping[str, bool],
        work: Callable[[], Sampled],
        *,
        wait: bool = True,
    ) -> Sampled | None:
        """What `work` gives of a metric, read where it is kept; None where another process is at it, unless it is
        waited for."""
        shaped_by = {
            "metric": [type(metric).__module__, type(metric).__qualname__, dataclasses.asdict(card_of(metric))],
            "vectors": tensor_hash({"x": x}),
            "data": [data.sha256, tensor_hash(_beside(data))],
            "controls": dataclasses.asdict(controls),
            "how": dict(how),
            **self._shaped_by,
        }
        path = self.folder / f"{key('sample/1', **shaped_by)}.safetensors"
        self._mine.add(path)
        if (kept := _read(path)) is not None:
            self.found += 1
            return kept

        def make(_: str, lease: Lease) -> Sampled:
            made = work()
            lease.check()
            write_bytes(path, _written(made))
            return made

        place = path.with_suffix(".lease")
        return dict(shared({"": place}, lambda _: _read(path), make, wait=wait)).get("")

    def remove(self) -> None:
        """Remove what was written or read: of what is finished nothing need be kept. Others' samples stay."""
        for path in self._mine:
            path.unlink(missing_ok=True)


def _read(path: Path) -> Sampled | None:
    """None where there is none, or a damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            statistics = [Statistic(**one) for one in json.loads((file.metadata() or {})["statistics"])]
            draws: dict[str, dict[tuple[str, str], np.ndarray]] = {part: {} for part in _DRAWN}
            for name in file.keys():
                part, statistic, group = name.split(_BETWEEN)
                draws[part][statistic, group] = file.get_tensor(name)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    return Sampled(statistics, **draws)


def _beside(data: MoralData) -> dict[str, Tensor]:
    """What shapes samples and is not in the hash of the data."""
    own = {"length": data.length, "strata": data.strata, "nuisance": data.nuisance}
    return {name: torch.from_numpy(value) for name, value in own.items() if value is not None}


def _written(sample: Sampled) -> bytes:
    from safetensors.numpy import save

    arrays = {
        _BETWEEN.join((part, *name)): np.ascontiguousarray(draws, dtype=np.float64)
        for part in _DRAWN
        for name, draws in getattr(sample, part).items()
    }
    return save(arrays, {"statistics": json.dumps([dataclasses.asdict(one) for one in sample.statistics])})
