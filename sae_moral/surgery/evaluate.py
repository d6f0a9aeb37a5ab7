"""What surgery changed, on texts that took no part in it: a table of before, after and the change with its interval.

Activations are means over a dimension's latents, each in units of its size before surgery, as the SAELens object gives
them. With g = a_virtue − a_vice of a foundation:

- `polarity_margin`: mean of g on virtuous items and −g on vicious ones, over the foundation's items. It grows with the
  activations.
- `polarity_auroc`: probability that a virtuous item of the foundation has the larger g (ties half). It does not.
- `reading_auroc`: the same of Σ a_virtue − Σ a_vice over all dimensions and all items with a pole: what the latents
  together read of good and evil.
- `ordering_accuracy`: share of the pairs of a dimension's items with different typicality that a_dimension puts in the
  right order (ties half). `spearman`: of a_dimension with typicality over the same items and the foundation's neutrals
  at 0, as in arXiv 2603.15615.
- `explained_variance`, `explained_variance_per_dimension`, `l0`: of the whole SAE.

Intervals are of after − before: 95 % percentile bootstrap over texts (their records come with them), both sides on the
same draws. They are about other texts of the same source, with this operation given; another split or seed of the
training would make another operation, and that spread is not in them.

A surgery is compared with the same labels on other texts, other latents, and none at all. `shuffled`: poles,
typicalities and vectors are permuted over texts of a foundation, of about the same length, within the training and
within the validation part; the third part keeps its own. `random`: each latent gives its place to one that is no moral
latent and fires on about as many training texts. `no-surgery`: nothing is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_moral.controls.draws import permutations, resamples
from sae_moral.controls.inference import interval
from sae_moral.data import MoralData
from sae_moral.data.splits import Split
from sae_moral.foundations import DIMENSIONS, FOUNDATIONS, NEUTRAL, VIRTUE
from sae_moral.metrics.ranks import auroc, spearman
from sae_moral.report.words import MISSING
from sae_moral.results import OVERALL
from sae_moral.sae.columns import ROWS
from sae_moral.sae.load import LoadedSae
from sae_moral.surgery.operation import Operation
from sae_moral.surgery.record import Change
from sae_moral.surgery.terms import contrast, contrasts, means
from sae_moral.surgery.vectors import Vectors, pooled
from sae_moral.tables import text_table

CONTROLS = ("none", "shuffled", "random", "no-surgery")
NEAREST = 10
"""A random latent is drawn from so many with the nearest firing rates."""
DRAWS = 1000
Found = dict[tuple[str, str], Float[Tensor, "b"]]


@dataclass(frozen=True, eq=False)
class Read:
    """One SAE on t prompts.

    Attributes:
        activation: of the operated latents, mean over each prompt's vectors.
        error: squared reconstruction error per dimension, summed over each prompt's vectors.
        spread: squared distance to the mean vector, likewise.
        active: active latents, summed likewise.
        count: vectors of each prompt.
    """

    activation: Float[Tensor, "t k"]
    error: Float[Tensor, "t d"]
    spread: Float[Tensor, "t d"]
    active: Float[Tensor, "t"]
    count: Float[Tensor, "t"]


@torch.no_grad()
def read(sae: LoadedSae, vectors: Vectors, prompts: Int[Tensor, "t"], latents: Int[Tensor, "k"]) -> Read:
    """Encode and decode these prompts' vectors with SAELens' own methods."""
    index, count = vectors.of(prompts)
    x = vectors.x[index].to(sae.sae.device)
    activation, made, active = [], [], []
    for rows in x.split(ROWS):
        z = sae.sae.encode(rows)
        z = z.to_dense() if z.is_sparse else z
        activation.append(z[:, latents.to(z.device)].float())
        active.append((z != 0).sum(dim=1, keepdim=True).float())
        made.append(sae.sae.decode(z).float())
    x = x.float()
    squares = (x - torch.cat(made)).square(), (x - x.mean(dim=0)).square(), torch.cat(active)
    error, spread, on = (pooled(value, count).cpu().double() * count[:, None] for value in squares)
    mean = pooled(torch.cat(activation), count).cpu().double()
    return Read(mean, error, spread, on[:, 0], count.double())


def table(
    before: LoadedSae,
    after: LoadedSae,
    vectors: Vectors,
    data: MoralData,
    records: Int[Tensor, "r"],
    latents: Int[Tensor, "k"],
    columns: Mapping[int, Int[Tensor, "_"]],
    scale: tuple[Float[Tensor, "k"], Float[Tensor, "k"]],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> list[Change]:
    """One row per statistic and group: before, after, change, ci_low, ci_high, n (texts); None where undefined.

    Args:
        records: the third part.
        scale: size of each latent before and after surgery.
    """
    prompts, at = torch.unique(vectors.row[records], return_inverse=True)
    part = data.subset(records.numpy())
    weight = torch.cat([torch.ones(1, len(part), dtype=torch.float64), resamples(part, draws, seed=seed)])
    # A prompt counts as often as its text was drawn, however many records it has.
    first = torch.full((len(prompts),), len(at)).scatter_reduce(0, at, torch.arange(len(at)), "amin")
    sides = []
    for sae, size in zip((before, after), scale, strict=True):
        found = read(sae, vectors, prompts, latents)
        ranked = _labelled(found.activation[at] / size.cpu().double(), part, columns, weight)
        sides.append({**ranked, **_whole(found, weight[:, first])})
    texts = len(set(part.group.tolist()))
    return [_row(name, group, value, sides[1][name, group], texts) for (name, group), value in sides[0].items()]


def _labelled(
    activation: Float[Tensor, "n k"], data: MoralData, columns: Mapping[int, Tensor], weight: Float[Tensor, "b n"]
) -> Found:
    of, found = means(activation, columns), Found()
    m = torch.from_numpy(data.typicality)
    for f in contrasts(columns):
        items = torch.from_numpy((data.foundation == f) & (data.pole != NEUTRAL)).nonzero()[:, 0]
        g, w = (of[2 * f] - of[2 * f + 1])[items], weight[:, items]
        virtue = torch.from_numpy(data.pole)[items] == VIRTUE
        signed = torch.where(virtue, g, -g)
        found["polarity_margin", FOUNDATIONS[f]] = (w * signed).sum(dim=1) / w.sum(dim=1)
        found["polarity_auroc", FOUNDATIONS[f]] = auroc(g[None], virtue[None], w)[0]
    for d in columns:
        own = torch.from_numpy(data.items(d // 2, d % 2)).nonzero()[:, 0]
        graded = torch.cat([own, torch.from_numpy(data.items(d // 2, NEUTRAL)).nonzero()[:, 0]])
        found["ordering_accuracy", DIMENSIONS[d]] = _ordering(of[d][own], m[own], weight[:, own])
        found["spearman", DIMENSIONS[d]] = spearman(of[d][graded][None], m[graded][None], weight[:, graded])[0]
    for name in dict.fromkeys(name for name, _ in found):
        found[name, OVERALL] = torch.stack([v for (n, _), v in found.items() if n == name]).nanmean(dim=0)
    moral = torch.from_numpy(data.pole != NEUTRAL)
    if of:
        virtue = torch.from_numpy(data.pole)[moral] == VIRTUE
        found["reading_auroc", OVERALL] = auroc(contrast(of)[moral][None], virtue[None], weight[:, moral])[0]
    return found


def _ordering(a: Float[Tensor, "n"], m: Float[Tensor, "n"], weight: Float[Tensor, "b n"]) -> Float[Tensor, "b"]:
    above = (m[:, None] > m[None, :]).double()
    right = above * ((a[:, None] > a[None, :]).double() + 0.5 * (a[:, None] == a[None, :]).double())
    return ((weight @ right) * weight).sum(dim=1) / ((weight @ above) * weight).sum(dim=1)


def _whole(found: Read, weight: Float[Tensor, "b t"]) -> Found:
    error, spread = weight @ found.error, weight @ found.spread
    varies = spread > 1e-12 * spread.amax(dim=1, keepdim=True)
    each = torch.where(varies, 1 - error / torch.where(varies, spread, 1.0), torch.nan).nanmean(dim=1)
    return {
        ("explained_variance", OVERALL): 1 - error.sum(dim=1) / spread.sum(dim=1),
        ("explained_variance_per_dimension", OVERALL): each,
        ("reconstruction_error", OVERALL): error.sum(dim=1) / (weight @ found.count),
        ("l0", OVERALL): (weight @ found.active) / (weight @ found.count),
    }


def _row(name: str, group: str, before: Tensor, after: Tensor, n: int) -> Change:
    change = after - before
    low, high = interval(change[1:].numpy(), 0.95) or (None, None)
    first, second, moved = (
        value if abs(value) < float("inf") else None for value in (float(x[0]) for x in (before, after, change))
    )
    return Change(statistic=name, group=group, before=first, after=second, change=moved, ci_low=low, ci_high=high, n=n)


def shuffled(data: MoralData, split: Split, length: Int[np.ndarray, "n"], seed: int) -> MoralData:
    """The data with labels permuted within foundation, part and length; a text's records move together.

    Raises:
        ValueError: hardly any label can move.
    """
    rows = np.concatenate([split["train"], split["validation"]])
    part = np.repeat([0, 1], [len(split["train"]), len(split["validation"])])
    learnt_from = dataclasses.replace(data, length=length).subset(rows)
    found = permutations(learnt_from, "labels", 1, seed=seed, fold=part)
    if found.fixed > 0.5:
        raise ValueError(f"{found.fixed:.0%} of the labels cannot move; expected more texts per foundation")
    index = np.arange(len(data))
    index[rows] = rows[found.index[0].numpy()]
    return data.relabelled(index)


@torch.no_grad()
def firing_rates(sae: LoadedSae, vectors: Vectors, prompts: Int[Tensor, "t"]) -> Float[np.ndarray, "s"]:
    """Share of the prompts on which each latent fires."""
    fired = torch.zeros(sae.d_sae, dtype=torch.float64)
    for some in prompts.split(256):
        index, count = vectors.of(some)
        on = sae.encode(vectors.x[index]) > 0
        fired += (pooled(on.float(), count) > 0).sum(dim=0).cpu()
    return (fired / len(prompts)).numpy()


def random_latents(
    by_dimension: Mapping[str, list[int]], rates: Float[np.ndarray, "s"], moral: Collection[int], seed: int
) -> dict[str, list[int]]:
    """Each latent's place taken by another that fires about as often; one per latent, none twice.

    Args:
        moral: latents that are not to be drawn.

    Raises:
        ValueError: fewer other latents that fire than are needed.
    """
    rng, replaced = np.random.default_rng(seed), dict[int, int]()
    free = np.setdiff1d(np.flatnonzero(rates > 0), list(moral))
    wanted = sorted({latent for members in by_dimension.values() for latent in members})
    if len(free) < len(wanted):
        raise ValueError(f"{len(free)} latents fire and are not moral; expected at least {len(wanted)}")
    for latent in rng.permutation(wanted).tolist():
        nearest = free[np.argsort(np.abs(rates[free] - rates[latent]), kind="stable")[:NEAREST]]
        replaced[latent] = int(rng.choice(nearest))
        free = free[free != replaced[latent]]
    return {name: sorted(replaced[latent] for latent in members) for name, members in by_dimension.items()}


def summary(operation: Operation) -> str:
    """What changed on the third part, as text: the overall rows with their intervals."""
    record = operation.record
    about = (
        f"{operation.name}: {len(operation.latents)} latents, {record.weights['share_changed']:.2%} of the weights "
        f"changed, {record.parts['test']} test scenarios"
    )
    if record.written:
        about += f"; written: {', '.join(record.written['writes'])}"
    rows = [["statistic", "before", "after", "change", "95 % interval"]]
    for row in record.table:
        if row["group"] == OVERALL:
            numbers = [_number(value) for value in (row["before"], row["after"], row["change"])]
            rows.append([row["statistic"], *numbers, f"{_number(row['ci_low'])} … {_number(row['ci_high'])}"])
    return f"{about}\n{text_table(rows)}"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4g}"
