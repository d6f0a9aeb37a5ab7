"""What a steering does: to the model's moral judgements (acceptability), and what it breaks elsewhere.

Acceptability, over scenarios, from the next-token logits after a wording such as "{text} is morally": margins between
approving and disapproving words, and how well they separate the poles (`sae_moral.steering.words` and `margins`).

Side effects, over all next-token predictions of neutral texts, the first one after BOS included. Every text is run
as it is and with every token steered (the first left out by steerings whose positions are
`all-but-first`, `scenario` or `template`; `prompt`, `last` and `generated` positions count as `all`):

    kl                 KL(unsteered ‖ steered) in nats, mean per prediction
    perplexity_ratio   exp of the mean difference of −log p(next token), steered minus unsteered; 1: none
    top_agreement      share of predictions whose likeliest token stays
    norm_share         ‖steered − unsteered residual‖ / ‖unsteered residual‖ at the last steered block, mean per token

Small values prove that neutral prediction is intact, not that what is said on moral matters is sound.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_moral.capture import capture
from sae_moral.capture.hooks import resolve_hooks
from sae_moral.capture.models import hooked_model
from sae_moral.capture.prompts import Prompt, prompt_ids
from sae_moral.capture.resume import without_cache
from sae_moral.controls.draws import resamples
from sae_moral.data import MoralData
from sae_moral.metrics import evaluate, resolve_metrics
from sae_moral.metrics.preprocess import preprocess
from sae_moral.protocol import AUDITED
from sae_moral.provenance import HookedModel
from sae_moral.shown import shown
from sae_moral.steering.generate import generate
from sae_moral.steering.hooks import steer
from sae_moral.steering.margins import Estimate, auroc, gap, gap_sd, poles
from sae_moral.steering.steering import OF_SCENARIOS, WITHOUT_MASK, Steering
from sae_moral.steering.words import MORALLY, WORDINGS, Wording, measure, pair_tokens

OPENINGS = ("The weather today", "In my opinion,", "She opened the door and", "The history of", "今天", "我认为")
"""Beginnings that a text can go on from in many ways."""
METRICS = ("categorical", "gradient")
"""Whose headlines are measured behind the edit."""
KEPT = 2**30
"""Bytes of unsteered predictions that `Neutral` keeps."""


# Acceptability


@shown()
@dataclass(frozen=True, eq=False)
class Acceptability:
    """Attributes:
    margins: per pair and scenario, in nats (differences of logits are log-odds).
    auroc, gap, gap_sd: means over the pairs (`sae_moral.steering.margins`), with 95 % intervals over texts.
    tokens: the token ids of each pair, approving first.
    """

    margins: Float[np.ndarray, "pairs n"]
    auroc: Estimate
    gap: Estimate
    gap_sd: Estimate
    tokens: tuple[tuple[int, int], ...]

    @property
    def margin(self) -> Float[np.ndarray, "n"]:
        """Per scenario, mean over the pairs."""
        return self.margins.mean(axis=0)


def acceptability(
    model: HookedModel | nn.Module,
    data: MoralData,
    steerings: Steering | Sequence[Steering] = (),
    *,
    wording: Wording = MORALLY,
    batch_size: int = 32,
    draws: int = 1000,
    seed: int = 0,
    any_model: bool = False,
) -> Acceptability:
    """Margins of the scenarios after one wording, and how well they separate the poles. For several wordings, and for
    what changes against another steering, see `measure` and `margin_effect`.

    Args:
        data: held-out scenarios, of both poles.
        wording: a template and pairs of an approving and a disapproving next word, each a single token.

    Raises:
        ValueError, DataError, NotFiniteError: as `measure`; a pole without scenarios.
    """
    model = hooked_model(model)
    poles(data)  # what is missing is said before the work
    how: dict[str, Any] = {"batch_size": batch_size, "any_model": any_model}
    margins = measure(model, data, steerings, [wording], **how)[wording.name]
    given = (margins, data, resamples(data, draws, seed=seed))
    return Acceptability(margins, auroc(*given), gap(*given), gap_sd(*given), pair_tokens(model, wording.pairs))


# Side effects


@shown()
@dataclass(frozen=True)
class SideEffects:
    """See the module for the formulas.

    Attributes:
        kl, perplexity_ratio, top_agreement, norm_share: means; not finite where the model's outputs are not.
        n: predictions compared.
    """

    kl: float
    perplexity_ratio: float
    top_agreement: float
    norm_share: float
    n: int


def neutral_texts() -> list[str]:
    """Two dozen plain factual sentences, English and Chinese."""
    return (files("sae_moral.steering") / "neutral.txt").read_text(encoding="utf8").splitlines()


def side_effects(
    model: HookedModel | nn.Module,
    steerings: Steering | Sequence[Steering],
    texts: Sequence[str] | None = None,
    *,
    batch_size: int = 8,
    any_model: bool = False,
) -> SideEffects:
    """Compare the steered with the unsteered model on neutral text (see the module for the formulas).

    Args:
        texts: `neutral_texts()` by default.
        batch_size: texts per batch.

    Raises:
        ValueError: a bad steering, or no text.
        DataError: a text longer than the context.
    """
    return Neutral(model, texts, batch_size=batch_size).side_effects(steerings, any_model=any_model)


class Neutral:
    """Neutral texts and what a model makes of them unsteered, for several steerings of that model in turn. The model
    and the hooks on it may not change in between.

    Args:
        model: it is not changed.
        texts: as for `side_effects`.
        batch_size: texts per batch.

    Raises:
        ValueError: no text.
        DataError: a text longer than the context.

    Memory: predictions of the unsteered model, 4 bytes per token and word of the vocabulary, up to `KEPT` bytes, until
    a steering at another layer comes; those of further batches are computed anew for each steering.
    """

    def __init__(
        self, model: HookedModel | nn.Module, texts: Sequence[str] | None = None, *, batch_size: int = 8
    ) -> None:
        self.model = hooked_model(model)
        ids = sorted(prompt_ids(self.model, neutral_texts() if texts is None else texts), key=len)
        if not ids:
            raise ValueError("no neutral text given; expected at least one")
        device = self.model.cfg.device or "cpu"
        # Padded on the right: what follows a token cannot change it, and BOS stays at position 0.
        self._batches = [right_padded(ids[i : i + batch_size], device) for i in range(0, len(ids), batch_size)]
        self._kept: dict[int, _Run] = {}
        self._layer = -1

    def side_effects(self, steerings: Steering | Sequence[Steering], *, any_model: bool = False) -> SideEffects:
        """As the function."""
        given = [steerings] if isinstance(steerings, Steering) else list(steerings)
        chosen = [dataclasses.replace(one, positions=_in_neutral(one.positions)) for one in given if one.alpha]
        layer = max((one.what.layer for one in chosen), default=0)
        found: list[Float[Tensor, "predictions 3"]] = []
        shares: list[Float[Tensor, "tokens"]] = []
        with torch.inference_mode():
            for i, (tokens, real) in enumerate(self._batches):
                plain = self._unsteered(i, layer)
                with steer(self.model, chosen, any_model=any_model) as start:
                    start(real)
                    steered = self._run(tokens, real, layer)
                found.append(_predictions(plain.logprobs, steered.logprobs, tokens[:, 1:][real[:, 1:]]))
                norm = torch.linalg.vector_norm
                shares.append(norm(steered.stream - plain.stream, dim=-1) / norm(plain.stream, dim=-1))
        kl, worse, same = torch.cat(found).double().mean(dim=0).tolist()
        n = sum(map(len, found))
        return SideEffects(kl, float(torch.tensor(worse).exp()), same, float(torch.cat(shares).mean()), n)

    def _unsteered(self, i: int, layer: int) -> _Run:
        if layer != self._layer:
            self._kept.clear()
            self._layer = layer
        if i in self._kept:
            return self._kept[i]
        run = self._run(*self._batches[i], layer)
        if sum(one.logprobs.nbytes for one in self._kept.values()) + run.logprobs.nbytes <= KEPT:
            self._kept[i] = run
        return run

    def _run(self, tokens: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"], layer: int) -> _Run:
        seen: list[Tensor] = []

        def watch(hidden: Tensor, hook: Any = None) -> None:
            seen.append(hidden[real].float())

        watched: list[Any] = [(resolve_hooks(self.model, [layer])[layer], watch)]
        with self.model.hooks(fwd_hooks=watched):
            how = {"attention_mask": real.long(), "return_type": "logits", **without_cache(self.model)}
            logits = self.model(tokens, **how)
        return _Run(logits[:, :-1][real[:, 1:]].float().log_softmax(dim=-1), seen[0])


@dataclass(frozen=True, eq=False)
class _Run:
    """Of a batch's real tokens: predictions of all but the first of each text, and the stream after a block."""

    logprobs: Float[Tensor, "predictions words"]
    stream: Float[Tensor, "tokens d"]


def _in_neutral(positions: str) -> str:
    if positions in OF_SCENARIOS:
        return "all-but-first"
    return positions if positions in WITHOUT_MASK else "all"


def right_padded(rows: Sequence[Sequence[int]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Token ids, and where they are real."""
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    return tokens, torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows], device=device)


def _predictions(
    p: Float[Tensor, "n words"], q: Float[Tensor, "n words"], following: Int[Tensor, "n"]
) -> Float[Tensor, "n 3"]:
    """Per prediction: KL, how much worse the next token is predicted, whether the likeliest token stays."""
    kl = (p.exp() * (p - q)).sum(dim=-1)
    worse = (p - q).gather(-1, following[:, None]).squeeze(-1)
    return torch.stack([kl, worse, (p.argmax(dim=-1) == q.argmax(dim=-1)).float()], dim=-1)


# Diversity of generations


@shown()
@dataclass(frozen=True)
class Diversity:
    """Means over generated texts; None where no text is long enough.

    Attributes:
        distinct_1, distinct_2: see `distinct_n`.
        repetition: 1 − distinct 4-grams.
    """

    distinct_1: float | None
    distinct_2: float | None
    repetition: float | None


def diversity(
    model: HookedModel | nn.Module,
    steerings: Steering | Sequence[Steering],
    prompts: Sequence[Prompt] = OPENINGS,
    **options: Any,
) -> Diversity:
    """Diversity of what is generated (greedily, unless the options say otherwise).

    Args:
        options: as for `generate`.
    """
    found = [one.ids for one in generate(model, prompts, steerings=steerings, **options)]
    repeated = distinct_n(found, 4)
    return Diversity(distinct_n(found, 1), distinct_n(found, 2), None if repeated is None else 1 - repeated)


def distinct_n(texts: Sequence[Sequence[int]], n: int) -> float | None:
    """Distinct n-grams of a text as a share of its n-grams, mean over the texts that have any; None if none has.

    Li et al. 2016 (arXiv 1510.03055) count over all texts together; per text it does not depend on their number. One
    minus the share for n = 4 is our `repetition`.
    """
    shares = []
    for ids in texts:
        grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else None


# All measures of one steering


@dataclass(frozen=True)
class MeasureSettings:
    """What a steering is measured with.

    Attributes:
        neutral: texts for the side effects.
        openings: what is continued, for the diversity of generations.
        new_tokens: how far.
        wordings: candidates; pairs of words are chosen, and others held out, on training texts (`choose_words`).
        each: so many pairs of either kind, per language.
    """

    neutral: tuple[str, ...] = field(default_factory=lambda: tuple(neutral_texts()))
    openings: tuple[str, ...] = OPENINGS
    new_tokens: int = 32
    wordings: tuple[Wording, ...] = field(default_factory=lambda: WORDINGS)
    each: int = 3


@shown()
@dataclass(frozen=True)
class Effects:
    """What was measured of one steering. None: not measured, or not finite.

    Attributes:
        margins: {wording: of each pair and scenario, to 10⁻⁵ nats}.
        headlines: {layer: {metric: overall headline}} of the audited protocol, behind the edit.
        kl, perplexity_ratio, top_agreement, norm_share: as in `SideEffects`.
        distinct_1, distinct_2, repetition: as in `Diversity`.
    """

    margins: dict[str, list[list[float]]]
    headlines: dict[str, dict[str, float | None]]
    kl: float | None
    perplexity_ratio: float | None
    top_agreement: float | None
    norm_share: float | None
    distinct_1: float | None = None
    distinct_2: float | None = None
    repetition: float | None = None


def measure_steering(
    model: HookedModel | nn.Module,
    steerings: Sequence[Steering],
    data: MoralData,
    layers: Sequence[int],
    settings: MeasureSettings,
    wordings: Sequence[Wording],
    *,
    full: bool = True,
    damage: SideEffects | None = None,
    any_model: bool = False,
) -> Effects:
    """Margins of the scenarios and side effects; with `full`, also headlines of the audited protocol at the given
    layers and the diversity of generations.

    Args:
        wordings: with the pairs whose margins are measured.
        damage: the side effects on the neutral texts of the settings, where they are known.

    Raises:
        NotFiniteError: the steering, or the margins under it, are not finite.
        ValueError, DataError: as `measure` and `side_effects`.
    """
    model = hooked_model(model)
    margins = measure(model, data, steerings, wordings, any_model=any_model)
    broken = damage or side_effects(model, steerings, settings.neutral, any_model=any_model)
    found = Effects(
        margins={name: np.round(own, 5).tolist() for name, own in margins.items()},
        headlines={},
        kl=_finite(broken.kl),
        perplexity_ratio=_finite(broken.perplexity_ratio),
        top_agreement=_finite(broken.top_agreement),
        norm_share=_finite(broken.norm_share),
    )
    if not full:
        return found
    generated = diversity(model, steerings, settings.openings, max_new_tokens=settings.new_tokens, any_model=any_model)
    headlines = downstream(model, steerings, data, layers, any_model=any_model)
    return dataclasses.replace(found, headlines=headlines, **dataclasses.asdict(generated))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def downstream(
    model: HookedModel,
    steerings: Sequence[Steering],
    data: MoralData,
    layers: Sequence[int],
    *,
    any_model: bool = False,
) -> dict[str, dict[str, float | None]]:
    """{layer: {metric: overall headline}} of the audited protocol, at layers behind the edit."""
    if not layers:
        return {}
    how: dict[str, Any] = {"template": AUDITED.template, "pooling": AUDITED.pooling, "bos": AUDITED.bos}
    with steer(model, steerings, any_model=any_model):
        representations = capture(model, data.text, layers=layers, progress=False, **how)
    measured = dataclasses.replace(data, length=representations.length)
    found: dict[str, dict[str, float | None]] = {}
    for layer in representations.layers:
        vectors, _ = preprocess(representations[layer], representations.length, AUDITED.preprocessing)
        found[str(layer)] = {}
        for metric in resolve_metrics(METRICS, AUDITED):
            results = {(one.name, one.group): one.value for one in evaluate(metric, vectors, measured)}
            found[str(layer)][metric.name] = results[metric.headline, "overall"]
    return found
