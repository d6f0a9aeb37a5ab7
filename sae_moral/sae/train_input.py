"""What a training begins with: the input's map, vectors in a seeded order that follows from the position, weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_moral.errors import unknown

INIT_NOISE = 0.01
"""Added to decoder rows that begin as data, whose mean square is 1 per dimension: a row of zeros has no gradient."""
NORMALISATIONS = ("scale", "standardise", "centre", "none")
CHUNK = 8192


@dataclass(frozen=True)
class InputMap:
    """z = (x − mean) / scale, folded into the weights after training, so that the saved SAE takes raw vectors.

    Attributes:
        kind: `scale` (the mean subtracted, one scale for all dimensions: mean square 1), `standardise` (a scale per
            dimension: a rogue dimension counts as much as any other), `centre` (the mean only) or `none`.
    """

    kind: str
    mean: Float[Tensor, "d"]
    scale: Float[Tensor, "d"]

    @classmethod
    def fit(cls, vectors: Float[np.ndarray, "n d"], rows: Int[np.ndarray, "_"], kind: str) -> InputMap:
        """From the training rows, chunk by chunk in float64.

        Raises:
            ValueError: an unknown kind, or rows that do not vary.
        """
        if kind not in NORMALISATIONS:
            raise unknown("normalisation", kind, NORMALISATIONS)
        d = vectors.shape[1]
        mean, square = np.zeros(d), np.zeros(d)
        chunks = _chunks(rows)
        if kind != "none":
            mean = sum((vectors[chunk].sum(axis=0, dtype=np.float64) for chunk in chunks), mean) / len(rows)
            for chunk in chunks:
                square += np.square(vectors[chunk] - mean).sum(axis=0)
        variance = square / len(rows)
        if kind in ("none", "centre"):
            scale = np.ones(d)
        elif variance.mean() == 0:
            raise ValueError(f"all {len(rows)} training vectors are equal; expected vectors that differ")
        else:
            # A dimension that hardly moves is left as small as it is: blown up to 1 it would be rounding noise.
            floor = 1e-4 * np.sqrt(variance.mean())
            per_dimension = np.maximum(np.sqrt(variance), floor)
            scale = per_dimension if kind == "standardise" else np.full(d, np.sqrt(variance.mean()))
        return cls(kind, torch.from_numpy(mean).float(), torch.from_numpy(scale).float())

    def __call__(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return (vectors - self.mean) / self.scale

    def inverse(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """From the trainer's space back to the model's."""
        return vectors * self.scale + self.mean

    @torch.no_grad()
    def fold_into(self, sae: Any) -> None:
        """Make a training SAE take raw vectors, with SAELens' own folding, which every architecture knows for itself.

        Raises:
            ValueError: `standardise` for an architecture with a tied encoder, which cannot absorb it.
        """
        if self.kind == "standardise":
            try:
                sae.fold_activation_whitening(self.mean, torch.diag(1 / self.scale), torch.diag(self.scale))
            except NotImplementedError as error:
                name = sae.cfg.architecture()
                raise ValueError(f"normalise='standardise' with {name}: {error}; use 'scale'") from None
            return
        sae.fold_activation_norm_scaling_factor(1 / float(self.scale[0]))
        sae.b_dec.data += self.mean.to(sae.b_dec)


def within(
    vectors: Float[np.ndarray, "_ d"], rows: Int[np.ndarray, "n"], train: Int[np.ndarray, "_"], limit: float | None
) -> Bool[np.ndarray, "n"]:
    """Which of the rows are no outliers: not further from the mean of the training vectors than `limit` times their
    median distance. One token in a thousand can carry a massive activation of a hundred times the usual norm and with
    it four fifths of the variance, and an SAE would be trained and measured on those alone. All where `limit` is None.
    """
    if limit is None:
        return np.ones(len(rows), dtype=bool)
    d = vectors.shape[1]
    mean = sum((vectors[chunk].sum(axis=0, dtype=np.float64) for chunk in _chunks(train)), np.zeros(d)) / len(train)

    def distance(of: Int[np.ndarray, "_"]) -> Float[np.ndarray, "_"]:
        return np.concatenate([np.linalg.norm(vectors[chunk] - mean, axis=1) for chunk in _chunks(of)])

    return distance(rows) <= limit * np.median(distance(train))


def _chunks(rows: Int[np.ndarray, "_"]) -> list[Int[np.ndarray, "_"]]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


class Batches(Iterator[Tensor]):
    """Batches [batch, d] without end: every epoch a fresh permutation of the rows, drawn from (seed, epoch) alone, so
    that a position says which vectors come next and nothing else has to be saved. A batch may span two epochs.

    Attributes:
        position: vectors given out so far.
    """

    def __init__(
        self,
        vectors: Float[np.ndarray, "n d"],
        rows: Int[np.ndarray, "_"],
        apply: InputMap,
        *,
        batch: int,
        seed: int = 0,
    ) -> None:
        self.vectors, self.rows, self.apply, self.batch, self.seed = vectors, rows, apply, batch, seed
        self.position = 0
        self._epoch, self._order = -1, rows

    def __next__(self) -> Float[Tensor, "batch d"]:
        chosen = []
        while (missing := self.batch - sum(map(len, chosen))) > 0:
            epoch, start = divmod(self.position, len(self.rows))
            part = self._permuted(epoch)[start : start + missing]
            self.position += len(part)
            chosen.append(part)
        # Ascending, because a memory map is then read in one direction; within a batch the order means nothing.
        index = np.sort(np.concatenate(chosen))
        return self.apply(torch.from_numpy(np.ascontiguousarray(self.vectors[index])))

    def _permuted(self, epoch: int) -> Int[np.ndarray, "_"]:
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
            self._epoch = epoch
        return self._order


def new_sae(config: Any, seed: int, *, sparse: bool = False) -> Any:
    """SAELens draws its weights from the global generator, which is left as it was found.

    Args:
        sparse: with the training step of `sparse_step`.
    """
    from sae_lens.saes.sae import TrainingSAE

    from sae_moral.sae.sparse_step import SPARSE

    kind = SPARSE[config.architecture()] if sparse else TrainingSAE
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind.from_dict(config.to_dict())


@torch.no_grad()
def decoder_from_data(
    sae: Any, vectors: Float[np.ndarray, "_ d"], rows: Int[np.ndarray, "_"], apply: InputMap, seed: int
) -> None:
    """Decoder rows are training vectors, and where those are fewer than latents, differences of two as well: equal rows
    would stay nearly equal. The encoder is their transpose, as with SAELens."""
    rng, d_sae = np.random.default_rng(seed), int(sae.cfg.d_sae)
    first = np.resize(rng.permutation(rows), d_sae)
    drawn = apply(torch.from_numpy(vectors[first]))
    extra = max(0, d_sae - len(rows))
    if extra:
        drawn[-extra:] -= apply(torch.from_numpy(vectors[rng.choice(rows, size=extra)]))
    drawn += torch.from_numpy(rng.normal(scale=INIT_NOISE, size=drawn.shape)).float()
    drawn *= (sae.cfg.decoder_init_norm or 1.0) / drawn.norm(dim=1, keepdim=True)
    sae.W_dec.data = drawn.to(sae.W_dec)
    sae.W_enc.data = sae.W_dec.data.T.clone().contiguous()
