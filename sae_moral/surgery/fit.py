"""The optimisation: six terms on batches of prompts, Adam on the rows of k latents, an early stop on other texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_moral.sae.train_input import within
from sae_moral.surgery import losses
from sae_moral.surgery.operation import Rows
from sae_moral.surgery.parts import Part
from sae_moral.surgery.settings import TERMS, SurgerySettings
from sae_moral.surgery.terms import Labels, supervised
from sae_moral.surgery.vectors import Vectors, pooled, ranges


class Fit:
    """One surgery's optimisation.

    Attributes:
        scale: each latent's size, in which `relative` counts activations: the 95th percentile of its activation over
            the training prompts on which it fires, before surgery.
        unit: the reconstruction error of the training vectors before surgery.
    """

    def __init__(
        self,
        part: Part,
        vectors: Vectors,
        labels: Labels,
        parts: Mapping[str, Int[Tensor, "_"]],
        columns: Mapping[int, Int[Tensor, "_"]],
        settings: SurgerySettings,
    ) -> None:
        """Args:
        parts: records of `train` and `validation`.

        Raises:
            ValueError: a latent that never fires on the training texts.
        """
        self.part, self.vectors, self.labels, self.columns, self.settings = part, vectors, labels, columns, settings
        self.records = dict(parts)
        self.prompts = {name: torch.unique(vectors.row[rows]) for name, rows in parts.items()}
        found = {name: vectors.of(prompts) for name, prompts in self.prompts.items()}
        self.count = {name: count for name, (_, count) in found.items()}
        self.frozen = {name: part.freeze(vectors.x[index]) for name, (index, _) in found.items()}
        self.inlier = {name: self._inliers(index, found["train"][0]) for name, (index, _) in found.items()}
        with torch.no_grad():
            moved = part(part.start, self.frozen["train"])
        self.scale = self._sizes(pooled(moved.activation, self.count["train"]))
        relative = settings.relative
        kept = self.inlier["train"]
        error = losses.reconstruction(self.frozen["train"].target[kept], moved.made[kept])
        self.unit = float(error) if relative else 1.0

    def _inliers(self, index: Int[Tensor, "r"], train: Int[Tensor, "q"]) -> Bool[Tensor, "r"]:
        x = self.vectors.x.numpy()
        return torch.from_numpy(within(x, index.numpy(), train.numpy(), self.settings.outliers))

    def _sizes(self, mean: Float[Tensor, "t k"]) -> Float[Tensor, "k"]:
        size = torch.where(mean > 0, mean, torch.nan).nanquantile(0.95, dim=0)
        silent = self.part.latents[size.isnan()].tolist()
        if silent:
            raise ValueError(
                f"latents {silent[:10]} never fire on the training texts; expected latents that do: leave them out"
            )
        return size

    def terms(self, rows: Rows, name: str, chosen: Int[Tensor, "t"] | None = None) -> dict[str, Float[Tensor, ""]]:
        """The six terms, unweighted.

        Args:
            name: the part.
            chosen: which of its prompts, by position; None for all.
        """
        frozen, records, prompts, count = self.frozen[name], self.records[name], self.prompts[name], self.count[name]
        kept = self.inlier[name]
        if chosen is not None:
            chosen = chosen.sort().values
            own = ranges((count.cumsum(0) - count)[chosen], count[chosen])
            frozen, kept = frozen.at(own), kept[own]
            prompts, count = prompts[chosen], count[chosen]
            records = records[torch.isin(self.vectors.row[records], prompts)]
        moved = self.part(rows, frozen, self.settings.leak)
        unit = self.scale if self.settings.relative else torch.ones_like(self.scale)
        at = torch.searchsorted(prompts, self.vectors.row[records])  # torch.unique sorts
        mean = (pooled(moved.leaky, count) / unit)[at.to(unit.device)]
        return {
            "reconstruction": losses.reconstruction(frozen.target[kept], moved.made[kept], self.unit),
            "sparsity": losses.sparsity(moved.activation / unit),
            **supervised(mean, self.labels.at(records), self.columns, self.settings),
        }

    def total(self, terms: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The weighted sum."""
        return torch.stack([getattr(self.settings, name) * value for name, value in terms.items()]).sum()

    def run(self, seed: int) -> tuple[Rows, list[dict[str, Any]], dict[str, Any]]:
        """Train; the kept rows, the history by epoch, and when and why it stopped.

        Kept are the rows with the lowest validation loss among those within the tolerance, the start included; without
        an early stop the last.

        Raises:
            RuntimeError: a loss that is not finite.
        """
        moving, settings = _Moving(self), self.settings
        optimiser = torch.optim.Adam(list(moving.step.values()), lr=settings.lr)
        generator = torch.Generator().manual_seed(seed)
        best, kept, epoch, reason = float("inf"), 0, 0, "epochs"
        rows, history = moving.rows(), list[dict[str, Any]]()
        for epoch in range(settings.epochs + 1):
            seen: list[dict[str, Tensor]] = []
            for chosen in torch.randperm(len(self.prompts["train"]), generator=generator).split(settings.batch):
                if not epoch:
                    break
                optimiser.zero_grad()
                seen.append(self.terms(moving.rows(), "train", chosen))
                self.total(seen[-1]).backward()
                optimiser.step()
                moving.project()
            with torch.no_grad():
                now = self._values([self.terms(moving.rows(), "validation")])
            assert now is not None
            history.append({"epoch": epoch, "train": self._values(seen), "validation": now})
            limit = (1 + (settings.tolerance or 0)) * history[0]["validation"]["reconstruction"]
            within_limit = settings.tolerance is None or now["reconstruction"] <= limit
            if not settings.early_stop or (now["total"] < best and within_limit):
                best, kept, rows = now["total"], epoch, {n: v.detach().clone() for n, v in moving.rows().items()}
            elif epoch - kept >= settings.patience:
                reason = "no lower validation loss within the tolerance"
                break
        return rows, history, {"kept_epoch": kept, "epochs": epoch, "reason": reason}

    def _values(self, seen: list[dict[str, Tensor]]) -> dict[str, float] | None:
        """Means over batches; None for no batch."""
        if not seen:
            return None
        values = {name: float(torch.stack([terms[name].detach() for terms in seen]).mean()) for name in TERMS}
        values["total"] = sum(getattr(self.settings, name) * value for name, value in values.items())
        if not all(math.isfinite(value) for value in values.values()):
            raise RuntimeError(f"a loss is not finite: {values}; try a smaller lr")
        return values


class _Moving:
    """The k latents' parameters as start + unit · step, so that one learning rate fits weights of any size."""

    def __init__(self, fit: Fit) -> None:
        start, relative = fit.part.start, fit.settings.relative
        self._keep = start["W_dec"].norm(dim=1, keepdim=True) if fit.settings.keep_norm else None
        self._start = start
        root = {"W_enc": start["W_enc"].square().mean(dim=0).sqrt(),
                "W_dec": start["W_dec"].square().mean(dim=1, keepdim=True).sqrt()}  # fmt: skip
        self._unit = {name: root.get(name, fit.scale) if relative else torch.ones_like(value[:1, ...])
                      for name, value in start.items()}  # fmt: skip
        self.step = {name: torch.zeros_like(value).requires_grad_() for name, value in start.items()}

    def rows(self) -> Rows:
        return {name: value + self._unit[name] * self.step[name] for name, value in self._start.items()}

    @torch.no_grad()
    def project(self) -> None:
        """Put decoder rows back to their own lengths."""
        if self._keep is not None:
            now = self.rows()["W_dec"]
            wanted = now * (self._keep / now.norm(dim=1, keepdim=True))
            self.step["W_dec"].copy_((wanted - self._start["W_dec"]) / self._unit["W_dec"])
