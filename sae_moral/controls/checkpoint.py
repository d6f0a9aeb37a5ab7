"""What was drawn of a metric at a layer is written down at once, so that an interrupted diagnosis goes on from there.

It is a file per metric and layer, named after a hash of all that shapes what is in it, the vectors themselves among it.
The files are a help against interruptions, not a cache: whoever finished removes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sae_moral.controls.sample import Sampled
from sae_moral.controls.settings import Controls
from sae_moral.data import MoralData
from sae_moral.io import key, write_bytes
from sae_moral.metrics import Metric, Statistic
from sae_moral.metrics.base import card_of

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
        self._data: dict[int, tuple[MoralData, str]] = {}
        self._mine: set[Path] = set()

    def sampled(
        self,
        metric: Metric,
        x: Float[Tensor, "n d"],
        data: MoralData,
        controls: Controls,
        how: Mapping[str, bool],
        work: Callable[[], Sampled],
    ) -> Sampled:
        """What `work` gives of a metric, read where it is kept."""
        shaped_by = {
            "metric": [type(metric).__module__, type(metric).__qualname__, dataclasses.asdict(card_of(metric))],
            "vectors": _hash({"x": x.detach().cpu().numpy()}),
            "data": self._hash_of(data),
            "controls": dataclasses.asdict(controls),
            "how": dict(how),
            **self._shaped_by,
        }
        path = self.folder / f"{key('sample/1', **shaped_by)}.safetensors"
        self._mine.add(path)
        if (kept := _read(path)) is not None:
            self.found += 1
            return kept
        made = work()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _written(made))
        return made

    def remove(self) -> None:
        """Remove what was written or read: of what is finished nothing need be kept. Others' samples stay."""
        for path in self._mine:
            path.unlink(missing_ok=True)

    def _hash_of(self, data: MoralData) -> str:
        if id(data) not in self._data:
            own = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
            arrays = {name: value for name, value in own.items() if isinstance(value, np.ndarray)}
            # The data are held, so that their id stays theirs.
            self._data[id(data)] = data, _hash({**arrays, "text": np.array([text.encode() for text in data.text])})
        return self._data[id(data)][1]


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


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


def _written(sample: Sampled) -> bytes:
    from safetensors.numpy import save

    arrays = {
        _BETWEEN.join((part, *name)): np.ascontiguousarray(draws, dtype=np.float64)
        for part in _DRAWN
        for name, draws in getattr(sample, part).items()
    }
    return save(arrays, {"statistics": json.dumps([dataclasses.asdict(one) for one in sample.statistics])})
