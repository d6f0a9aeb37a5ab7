"""The optimisation: k latents of an SAE as free parameters, Adam, an early stop; then what they write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_moral.sae.train_input import within
from sae_moral.surgery.operation import Rows
from sae_moral.surgery.part import Part
from sae_moral.surgery.read import as_readers, cheapest, loss_without, mean_reading, ridge_of_tokens
from sae_moral.surgery.record import Epoch, Stopped, Written
from sae_moral.surgery.settings import SurgerySettings
from sae_moral.surgery.terms import (
    TERMS,
    Batch,
    Labels,
    Term,
    means,
    reconstruction,
    signed_typicality,
    term_values,
)
from sae_moral.surgery.vectors import Vectors, pooled, ranges
from sae_moral.surgery.write import Scene, WriteTerm, rows_gained


class Fit:
    """One surgery's optimisation.

    Attributes:
        scale: each latent's size, in which `relative` counts activations: the 95th percentile of its activation over
            the training prompts on which it fires; of an opened latent its new size.
        scale_before: the same before surgery.
        opened: {column: sign} of the latents that were opened.
        unit: the reconstruction error of the training vectors before surgery.
        spread: one over each input dimension's standard deviation over the training vectors; 0 where it does not vary.
    """

    def __init__(
        self,
        part: Part,
        vectors: Vectors,
        labels: Labels,
        parts: Mapping[str, Int[Tensor, "_"]],
        columns: Mapping[int, Int[Tensor, "_"]],
        settings: SurgerySettings,
        own: Sequence[Term] = (),
        writes: Sequence[WriteTerm] = (),
    ) -> None:
        """Args:
        parts: records of `train` and `validation`.
        own: terms beside those of the settings.
        writes: what is written when training is over.

        Raises:
            ValueError: a latent that never fires on the training texts.
        """
        self.part, self.vectors, self.labels, self.columns, self.settings = part, vectors, labels, columns, settings
        self.weights = {name: getattr(settings, name) for name in TERMS} | {term.name: term.weight for term in own}
        self._terms = {**TERMS, **{term.name: term for term in own}}
        self.writes = tuple(writes)
        self.records = dict(parts)
        self.prompts = {name: torch.unique(vectors.row[rows]) for name, rows in parts.items()}
        found = {name: vectors.of(prompts) for name, prompts in self.prompts.items()}
        self.count = {name: count for name, (_, count) in found.items()}
        self.frozen = {name: part.freeze(vectors.x[index]) for name, (index, _) in found.items()}
        self.inlier = {name: self._inliers(index, found["train"][0]) for name, (index, _) in found.items()}
        with torch.no_grad():
            moved = part(part.start, self.frozen["train"])
        self.scale = self._sizes(pooled(moved.activation, self.count["train"]))
        kept = self.inlier["train"]
        error = reconstruction(self.frozen["train"].target[kept], moved.made[kept])
        self.unit = float(error) if settings.relative else 1.0
        deviation = self.frozen["train"].x[kept].std(dim=0)
        self.spread = torch.where(deviation > 0, 1 / deviation.where(deviation > 0, 1.0), 0.0)
        self.scale_before = self.scale.clone()
        self.opened, self.start = self._open()

    @torch.no_grad()
    def _open(self) -> tuple[dict[int, float], Rows]:
        """Which latents become dense readers, and the rows with which training starts."""
        settings, start = self.settings, self.part.start
        if not settings.opened or self.part.competes or not self.columns:
            return {}, start
        limit = self._limit(settings.open_share)
        kept, count, frozen = self.inlier["train"], self.count["train"], self.frozen["train"]
        loss = loss_without(self.part, frozen.at(kept.nonzero()[:, 0]))
        # Half of what opening may cost is for what the latents no longer reconstruct.
        afford = self._error(start, "train") * (limit - 1) / 2
        chosen = cheapest(loss, self.columns, settings.opened, afford)
        at = torch.searchsorted(self.prompts["train"], self.vectors.row[self.records["train"]])
        y = signed_typicality(self.labels.at(self.records["train"]).vector).cpu()
        y = torch.zeros(len(count)).scatter_reduce(0, at, y, "mean", include_self=False)
        if not chosen or bool((y == y[0]).all()):
            return {}, start
        of = torch.repeat_interleave(torch.arange(len(count)), count)[kept]
        some = of.bincount(minlength=len(count))
        weight, bias = ridge_of_tokens(frozen.x[kept], some[some > 0], y[some > 0])
        read = [mean_reading(frozen.x, count, weight, bias, sign) for sign in chosen.values()]
        was = self.scale[list(chosen)]
        size = was / self._sizes(torch.stack(read, dim=1), list(chosen))

        def rows(share: float) -> Rows:
            return as_readers(self.part, start, chosen, weight, bias, (share * size).tolist())

        def fits(share: float) -> bool:
            return self._error(rows(share), "validation") <= limit * error

        error = self._error(start, "validation")
        if not (share := 1.0 if fits(1.0) else largest(fits, start=0.5)):
            return {}, start
        self.scale[list(chosen)] = share * was
        return chosen, rows(share)

    def _inliers(self, index: Int[Tensor, "r"], train: Int[Tensor, "q"]) -> Bool[Tensor, "r"]:
        x = self.vectors.x.numpy()
        return torch.from_numpy(within(x, index.numpy(), train.numpy(), self.settings.outliers))

    def _sizes(self, mean: Float[Tensor, "t j"], columns: Sequence[int] | None = None) -> Float[Tensor, "j"]:
        size = torch.where(mean > 0, mean, torch.nan).nanquantile(0.95, dim=0)
        latents = self.part.latents if columns is None else self.part.latents[list(columns)]
        silent = latents[size.isnan()].tolist()
        if silent:
            raise ValueError(
                f"latents {silent[:10]} never fire on the training texts; expected latents that do: leave them out"
            )
        return size

    def terms(self, rows: Rows, name: str, chosen: Int[Tensor, "t"] | None = None) -> dict[str, Float[Tensor, ""]]:
        """Every term, unweighted.

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
        batch = Batch(
            target=frozen.target[kept],
            made=moved.made[kept],
            unit=self.unit,
            activation=moved.activation / unit,
            of=means(mean, self.columns),
            labels=self.labels.at(records),
            relative=self.settings.relative,
            polarity_margin=self.settings.polarity_margin,
            prototype_margin=self.settings.prototype_margin,
            released=self.settings.form == "released",
        )
        return term_values(batch, self.columns, self._terms)

    def total(self, terms: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The weighted sum."""
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()

    def run(self, seed: int) -> tuple[Rows, list[Epoch], Stopped]:
        """Train; the kept rows, the history by epoch, and when and why it stopped.

        Kept are the rows with the lowest validation loss among those within the tolerance, the start included; without
        an early stop the last.

        Raises:
            RuntimeError: a loss that is not finite.
        """
        moving, settings = _Moving(self), self.settings
        optimiser = torch.optim.Adam(list(moving.step.values()), lr=settings.lr)
        generator, schedule = torch.Generator().manual_seed(seed), None
        if settings.schedule == "one-cycle" and settings.epochs:
            steps = settings.epochs * math.ceil(len(self.prompts["train"]) / settings.batch)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.lr, total_steps=steps)
        best, kept, epoch, reason = float("inf"), 0, 0, "epochs"
        limit = self._limit(settings.read_share if self.writes else 1.0)
        rows, history = moving.rows(), list[Epoch]()
        before = self._error(self.part.start, "validation") / self.unit
        for epoch in range(settings.epochs + 1):
            seen: list[dict[str, Tensor]] = []
            for chosen in self.batches(generator):
                if not epoch:
                    break
                optimiser.zero_grad()
                seen.append(self.terms(moving.rows(), "train", chosen))
                self.total(seen[-1]).backward()
                if settings.clip is not None:
                    torch.nn.utils.clip_grad_norm_(moving.step.values(), settings.clip)
                moving.decay(settings.weight_decay * optimiser.param_groups[0]["lr"])
                optimiser.step()
                if schedule is not None:
                    schedule.step()
                moving.project()
            if epoch and settings.shrink:
                self._shrink(moving, limit)
            with torch.no_grad():
                now = self._values([self.terms(moving.rows(), "validation")])
            assert now is not None
            history.append(Epoch(epoch=epoch, train=self._values(seen), validation=now))
            within_limit = now["reconstruction"] <= limit * before
            if not settings.early_stop or (now["total"] < best and within_limit):
                best, kept, rows = now["total"], epoch, {n: v.detach().clone() for n, v in moving.rows().items()}
            elif epoch - kept >= settings.patience:
                reason = "no lower validation loss within the tolerance"
                break
        return rows, history, Stopped(kept_epoch=kept, epochs=epoch, reason=reason)

    @torch.no_grad()
    def _shrink(self, moving: _Moving, limit: float) -> None:
        """Take all steps back by one factor, as far as the tolerance asks."""
        error = limit * self._error(self.part.start, "validation")
        if math.isfinite(error) and self._error(moving.rows(), "validation") > error:
            low, high = 0.0, 1.0
            for _ in range(7):
                middle = (low + high) / 2
                inside = self._error(moving.shrunk(middle), "validation") <= error
                low, high = (middle, high) if inside else (low, middle)
            moving.shrink(low)
            moving.project()

    def batches(self, generator: torch.Generator) -> Sequence[Int[Tensor, "t"]]:
        """Positions of the training prompts, a batch each."""
        n = len(self.prompts["train"])
        if not self.settings.by_typicality:
            return torch.randperm(n, generator=generator).split(self.settings.batch)
        records = self.records["train"]
        at = torch.searchsorted(self.prompts["train"], self.vectors.row[records])
        m = self.labels.at(records).vector.amax(dim=1).cpu()
        share = torch.zeros(n).scatter_reduce(0, at, m, "amax") + 0.1
        drawn = torch.multinomial(share, n, replacement=True, generator=generator)
        # A prompt counts once in a batch.
        return [torch.unique(batch) for batch in drawn.split(self.settings.batch)]

    def _limit(self, share: float = 1.0) -> float:
        """The reconstruction error that is tolerated, as a multiple of the one before surgery."""
        return float("inf") if self.settings.tolerance is None else 1 + share * self.settings.tolerance

    @torch.no_grad()
    def written(self, rows: Rows) -> tuple[Rows, Written]:
        """The trained rows with what the writes add to the decoder's, as large as it may be (see `write`).

        Raises:
            ValueError: nothing to write, or no size within the limits.
        """
        gained = rows_gained(self.writes, self._scene(rows), self.scale)
        before, after = self.part.start["W_dec"].norm(dim=1), rows["W_dec"]

        def with_write(size: float) -> Rows:
            made = after + size * gained
            if self.part.rescales:  # there a row's length decides which latents are active, and stays
                made = made * (after.norm(dim=1) / made.norm(dim=1))[:, None]
            return {**rows, "W_dec": made}

        def fits(size: float) -> bool:
            within_cap = ((after + size * gained).norm(dim=1) <= self.settings.row_cap * before).all()
            return bool(within_cap) and self._error(with_write(size), "validation") <= limit

        limit = self._limit() * self._error(self.part.start, "validation")
        size = largest(fits, start=float(before.max() / gained.norm(dim=1).max()))
        if not size:
            raise ValueError(
                "no size of the write stays within the tolerance of the reconstruction error and the cap of the rows' "
                "lengths; allow more (tolerance, row_cap), or train the readers less (read_share)"
            )
        made = with_write(size)
        change = made["W_dec"] - after
        return made, Written(
            writes={term.name: term.weight for term in self.writes},
            size=size,
            longest=float((made["W_dec"].norm(dim=1) / before).max()),
            gained=change.norm(dim=1).tolist(),
            rank=int(torch.linalg.matrix_rank(gained)),
        )

    def _scene(self, rows: Rows) -> Scene:
        """The training records, read by these rows."""
        index, count = self.vectors.of(self.prompts["train"])
        at = torch.searchsorted(self.prompts["train"], self.vectors.row[self.records["train"]])
        mean = pooled(self.vectors.x[index].float(), count).to(self.scale.device)
        read = pooled(self.part(rows, self.frozen["train"]).activation, self.count["train"]) / self.scale
        return Scene(read[at], mean[at], self.labels.at(self.records["train"]), self.columns)

    def _error(self, rows: Rows, name: str) -> float:
        kept, moved = self.inlier[name], self.part(rows, self.frozen[name])
        return float(reconstruction(self.frozen[name].target[kept], moved.made[kept]))

    def _values(self, seen: list[dict[str, Tensor]]) -> dict[str, float] | None:
        """Means over batches; None for no batch."""
        if not seen:
            return None
        values = {name: float(torch.stack([terms[name].detach() for terms in seen]).mean()) for name in self._terms}
        values["total"] = sum(self.weights[name] * value for name, value in values.items())
        if not all(math.isfinite(value) for value in values.values()):
            raise RuntimeError(f"a loss is not finite: {values}; try a smaller lr")
        return values


def largest(fits: Callable[[float], bool], start: float, steps: int = 12) -> float:
    """The largest size that fits, to 0.1 %, where every smaller one fits, too; 0 if none down to start · 2^−steps does,
    and at most start · 2^steps."""
    low = start
    while not fits(low):
        low /= 2
        if low < start * 2.0**-steps:
            return 0.0
    high = 2 * low
    while fits(high) and high < start * 2.0**steps:
        low, high = high, 2 * high
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class _Moving:
    """The k latents' parameters as start + unit · step, so that one learning rate fits weights of any size."""

    def __init__(self, fit: Fit) -> None:
        start, relative = {**fit.start}, fit.settings.relative
        self._fixed = {name: start.pop(name) for name in ("threshold",) if name in start}
        self._keep = start["W_dec"].norm(dim=1, keepdim=True) if fit.settings.keep_norm else None
        self._start = start
        # A step of an encoder's weight moves activations by that share of their size, whatever the input's dimension
        # varies by: the few dimensions that carry most of the variance would otherwise be all that moves.
        unit = {"W_enc": fit.scale * fit.spread[:, None],
                "W_dec": start["W_dec"].square().mean(dim=1, keepdim=True).sqrt()}  # fmt: skip
        self._unit = {name: unit.get(name, fit.scale) if relative else torch.ones_like(value[:1, ...])
                      for name, value in start.items()}  # fmt: skip
        self.step = {name: torch.zeros_like(value).requires_grad_() for name, value in start.items()}

    def rows(self) -> Rows:
        moved = {name: value + self._unit[name] * self.step[name] for name, value in self._start.items()}
        return {**moved, **self._fixed}

    @torch.no_grad()
    def shrunk(self, share: float) -> Rows:
        """The rows with that share of all steps, decoder rows as `project` leaves them."""
        rows = {name: value + share * self._unit[name] * self.step[name] for name, value in self._start.items()}
        rows |= self._fixed
        if self._keep is not None:
            rows["W_dec"] = rows["W_dec"] * (self._keep / rows["W_dec"].norm(dim=1, keepdim=True))
        return rows

    @torch.no_grad()
    def shrink(self, share: float) -> None:
        """Leave that share of all steps."""
        for step in self.step.values():
            step.mul_(share)

    @torch.no_grad()
    def decay(self, share: float) -> None:
        """Take that share of all weights away."""
        if share:
            for name in self.step:
                value = self.rows()[name]
                unit = self._unit[name].expand_as(value)
                self.step[name].sub_(torch.where(unit > 0, share * value / unit.where(unit > 0, 1.0), 0.0))

    @torch.no_grad()
    def project(self) -> None:
        """Put decoder rows back to their own lengths."""
        if self._keep is not None:
            now = self.rows()["W_dec"]
            wanted = now * (self._keep / now.norm(dim=1, keepdim=True))
            self.step["W_dec"].copy_((wanted - self._start["W_dec"]) / self._unit["W_dec"])
