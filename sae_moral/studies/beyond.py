"""Is an arm beyond its twins? What steered margins say of operations and of every kind of twin at the same damage.

Per wording and use of its pairs (chosen, held out), and over all wordings of a language together (`TOGETHER`), the
AUROC of the margin, virtuous against vicious held-out scenarios:

    difference   mean over the operations (seeds of surgery) − mean over the twins of one kind
    interval     95 %, bootstrap over texts and over seeds: each draw takes texts, operations and twins with
                 replacement, the same texts on both sides; a single operation or twin is always taken
    p            rank of the operations' mean among the twins, (1 + twins that reach it) / (1 + twins): are they more
                 than one more of them? Where there are at least `FEWEST`: with fewer no p could be 0.05
    p_corrected  the same over the layers at one strength, where each has as many twins: how often a twin's highest
                 layer reaches the operations, in units of each layer's own spread (Westfall & Young 1993); Holm's
                 procedure otherwise

The interval asks whether the difference holds for other texts and seeds, p whether a twin could have done it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sae_moral.controls.inference import holm, p_values
from sae_moral.report.words import count, signed
from sae_moral.shown import shown
from sae_moral.steering.margins import Drawn, estimate

TOGETHER = "together"
"""All wordings of a language: the mean of their AUROC."""
FEWEST = 19
Place = tuple[int, str, float | None]
"""Layer, form, and the KL that was asked for (None: strengths given as α)."""


@shown()
@dataclass(frozen=True)
class Beyond:
    """Operations against one kind of twin.

    Attributes:
        layer, form, kl: where, and the damage that was asked for.
        wording, use: of the words.
        twin: the kind.
        operations, twins: how many of each; None where a sweep of version 0.1 does not say.
        difference, low, high, p, p_corrected: see the module; None where there are too few.
        statistic: what the difference is of; `gap`, in nats, in sweeps of version 0.1.
        alpha: of sweeps of version 0.1, which were compared at equal α.
        value, twin_values: what is ranked: the operations' mean, and each twin's, in the order of their seeds; None
            where there are too few.
    """

    layer: int
    form: str
    kl: float | None
    wording: str
    use: str
    twin: str
    operations: int
    twins: int | None
    difference: float
    low: float
    high: float
    p: float | None = None
    p_corrected: float | None = None
    statistic: str = "auroc"
    alpha: float | None = None
    value: float | None = None
    twin_values: tuple[float, ...] | None = None

    @property
    def holds(self) -> bool:
        """The difference holds for other texts and seeds, and no more than one twin in twenty could have done it."""
        p = self.p if self.p_corrected is None else self.p_corrected
        return bool(self.low > 0 and (p is None or p <= 0.05))


def compare(
    arms: Mapping[Place, Mapping[str, Mapping[tuple[str, str], Sequence[Drawn]]]], *, operated: str, seed: int = 0
) -> list[Beyond]:
    """Every kind of twin at every place, for every wording and use.

    Args:
        arms: {place: {arm: {(wording, use): AUROCs as `margins.drawn` gives them, one for each operation or twin}}};
            all of the same scenarios and draws.
        operated: the arm that the others are twins of.
        seed: of the draws of operations and twins.
    """
    found = []
    for (layer, form, kl), given in arms.items():
        for words, own in given.get(operated, {}).items():
            for twin, others in given.items():
                if twin != operated and words in others:
                    how = (layer, form, kl, *words, twin)
                    found.append(_against(how, own, others[words], np.random.default_rng(seed)))
    return corrected(found)


def _against(
    how: tuple[int, str, float | None, str, str, str],
    own: Sequence[Drawn],
    others: Sequence[Drawn],
    rng: np.random.Generator,
) -> Beyond:
    difference = estimate(_mean(own, rng) - _mean(others, rng))
    if len(others) < FEWEST:
        return Beyond(*how, len(own), len(others), *difference)
    value, twins = float(np.mean([of[0] for of in own])), tuple(float(one[0]) for one in others)
    (p,) = p_values([value], [np.array(twins)], "higher")
    return Beyond(*how, len(own), len(others), *difference, p=p, value=value, twin_values=twins)


def _mean(arm: Sequence[Drawn], rng: np.random.Generator) -> Drawn:
    """Mean over the members as they are, then over members drawn with replacement."""
    values = np.stack(arm)
    chosen = rng.integers(len(arm), size=(len(arm), values.shape[1]))
    chosen[:, 0] = np.arange(len(arm))
    return np.take_along_axis(values, chosen, axis=0).mean(axis=0)


def corrected(found: Sequence[Beyond]) -> list[Beyond]:
    """With p-values corrected for the number of layers: of one model, and of one kind of write."""
    families: dict[tuple[object, ...], list[int]] = {}
    for i, one in enumerate(found):
        families.setdefault((one.form, one.kl, one.wording, one.use, one.twin), []).append(i)
    corrected = list(found)
    for members in families.values():
        for i, p in zip(members, _over_layers([found[i] for i in members]), strict=True):
            corrected[i] = replace(found[i], p_corrected=p)
    return corrected


def _over_layers(layers: Sequence[Beyond]) -> list[float | None]:
    ranked = [np.array([one.value, *one.twin_values]) for one in layers if one.twin_values is not None]
    if len(ranked) == len(layers) and len({len(values) for values in ranked}) == 1:
        # The operations count among their twins here, so that all are treated alike. Without units the layer whose
        # twins scatter most would decide about all others.
        ranked = [(values - values.mean()) / max(values.std(), np.finfo(float).tiny) for values in ranked]
        return p_values([values[0] for values in ranked], [values[1:] for values in ranked], "higher")
    return holm([one.p for one in layers])


def sentence(found: Sequence[Beyond], place: Place, use: str, changes: Sequence[float] = ()) -> str:
    """What may be quoted of one place: what the operations do, which twins they are beyond, and which not.

    Args:
        changes: of the AUROC, one for each operation that has one.
    """
    own = [one for one in found if (one.layer, one.form, one.kl) == place and (one.wording, one.use) == (TOGETHER, use)]
    said = {True: [one for one in own if one.holds], False: [one for one in own if not one.holds]}
    parts = [f"{word} {', '.join(map(_difference, ones))}" for word, ones in (
        ("beyond", said[True]), ("not shown to be beyond", said[False])) if ones]  # fmt: skip
    layer, form, kl = place
    at = "" if kl is None else f", KL {kl:g}"
    effect = "not measured"
    if changes:
        more = f"{count(len(changes))} operations" if len(changes) > 1 else "one operation"
        effect = f"{signed(sum(changes) / len(changes))} ({more})"
    return (
        f"After block {layer} ({form}{at}), change of the AUROC of {use.replace('_', '-')} words: {effect}; "
        f"{'; '.join(parts) or 'no twin was measured'}."
    )


def _difference(one: Beyond) -> str:
    return f"{one.twin} ({signed(one.difference)} [{signed(one.low)}, {signed(one.high)}])"
