"""How a model is asked for its judgement of a scenario: templates, the pairs of words compared after them, and which.

A `Wording` is a template with pairs of an approving and a disapproving next word. `measure` gives the margins of all
its pairs from one run of the model, which computes the logits of the last position alone. Scenarios go into templates
without their final stop, English or Chinese ("It's rude to hate priests is morally", not "priests. is morally").

`choose_words` chooses the pairs on training texts, without any steering. Whatever is learnt from words (a write along
the gradient of a margin) may use the chosen pairs after the wordings that are not held out; held-out pairs and wordings
are for measuring only.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import nn

from sae_moral.capture.chat import chat_prompt, message_of
from sae_moral.capture.models import hooked_model
from sae_moral.capture.prompts import Prompts, prompts_of
from sae_moral.data import MoralData
from sae_moral.data.text import without_stop
from sae_moral.errors import SaeMoralWarning, unknown
from sae_moral.metrics import ranks
from sae_moral.provenance import HookedModel
from sae_moral.shown import shown
from sae_moral.steering.forwards import last_logits
from sae_moral.steering.hooks import NotFiniteError, steer
from sae_moral.steering.margins import poles
from sae_moral.steering.steering import Steering

Pair = tuple[str, str]
"""An approving and a disapproving next word, with the space in front where the language has one."""
ENGLISH: tuple[Pair, ...] = (
    (" right", " wrong"),
    (" good", " bad"),
    (" acceptable", " unacceptable"),
    (" moral", " immoral"),
    (" kind", " cruel"),
    (" fair", " unfair"),
    (" fine", " terrible"),
    (" okay", " awful"),
    (" nice", " mean"),
    (" noble", " evil"),
)
CHINESE: tuple[Pair, ...] = (
    ("对", "错"),
    ("好", "坏"),
    ("正确", "错误"),
    ("道德", "不道德"),
    ("善", "恶"),
    ("善良", "残酷"),
    ("可以", "不可以"),
    ("合法", "非法"),
    ("公平", "不公平"),
    ("合理", "不合理"),
    ("优秀", "糟糕"),
)
USES = ("chosen", "held_out", "unused")


@dataclass(frozen=True)
class Wording:
    """One way to ask.

    Attributes:
        name: what tables call it.
        template: with `{text}` where the scenario stands; `chat: MESSAGE` for a message of the user in the model's own
            chat template, as in `diagnose`.
        pairs: candidates, or those that are compared.
        language: of the words; pairs are ranked within a language.
        answer: how the assistant's answer begins, after a chat template.
        held_out: nothing is learnt from it, and no pair is chosen by it.

    Raises:
        ValueError: not exactly one `{text}`, or an answer without a chat.
    """

    name: str
    template: str
    pairs: tuple[Pair, ...] = ENGLISH
    language: str = "English"
    answer: str = ""
    held_out: bool = False

    def __post_init__(self) -> None:
        if message_of(self.template) is None and self.answer:
            raise ValueError(
                f"the wording {self.name} has an answer, {self.answer!r}, and its template {self.template!r} is no "
                "chat; write both into the template, or begin it with 'chat:'"
            )

    def template_for(self, tokenizer: Any) -> dict[str, str]:
        """`template` and `bos` for `prompts_of`.

        Raises:
            ValueError: a chat for a model without a chat template, or one that refuses it.
        """
        message = message_of(self.template)
        if message is None:
            return {"template": self.template, "bos": "prepend"}
        return {"template": chat_prompt(tokenizer, message) + self.answer, "bos": "none"}

    def prompts(self, model: HookedModel, text: Sequence[str]) -> Prompts:
        """The scenarios, without their final stop, in the template.

        Raises:
            ValueError: as `template_for`.
            DataError: a scenario without a token of its own, or longer than the context.
        """
        return prompts_of(model, [without_stop(one) for one in text], **self.template_for(model.tokenizer))


TEMPLATE = "{text} is morally"
MORALLY = Wording("morally", TEMPLATE)
WORDINGS = (
    MORALLY,
    Wording("opinion", "People think that {text} is"),
    Wording("chat", "chat: How would you judge this? {text}", answer="I think that is"),
    Wording("answer", "Question: how would you judge this? {text}.\nAnswer: It is", held_out=True),
    Wording("Chinese", "{text}。从道德上说，这是", CHINESE, "Chinese"),
)
"""docs/design/steering.md has the probability of their words."""


def pair_tokens(model: HookedModel, pairs: Sequence[Pair]) -> tuple[tuple[int, int], ...]:
    """The token ids of each pair.

    Raises:
        ValueError: no pair, or a word that is not one known token.
    """
    if not pairs:
        raise ValueError("no pair of words given; expected at least one, e.g. (' right', ' wrong')")
    return tuple((_token(model.tokenizer, good), _token(model.tokenizer, bad)) for good, bad in pairs)


def _token(tokenizer: Any, word: str) -> int:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(
            f"{word!r} is {len(ids)} tokens here ({tokenizer.convert_ids_to_tokens(ids)}); expected a word that is "
            "one, and known"
        )
    return int(ids[0])


# Measuring


def measure(
    model: HookedModel | nn.Module,
    data: MoralData,
    steerings: Steering | Sequence[Steering] = (),
    wordings: Sequence[Wording] = (MORALLY,),
    *,
    batch_size: int = 32,
    any_model: bool = False,
) -> dict[str, Float[np.ndarray, "pairs n"]]:
    """{wording: margins of its pairs, in their order, for each scenario}; the model runs once per wording. See
    `sae_moral.steering.margins` for what is made of them.

    Args:
        data: scenarios; no label is used.
        steerings: any positions; `scenario`, `template` and `last` show where a steering acts.
        wordings: of distinct names (`choose_words`, `usable`).

    Raises:
        ValueError: a word of several tokens, a chat for a model without a template, a name twice, a bad steering.
        DataError: a scenario longer than the context.
        NotFiniteError: margins that are not finite.
    """
    model = hooked_model(model)
    _check_names(wordings)
    for wording in wordings:  # what is wrong is said before the work
        pair_tokens(model, wording.pairs)
        wording.template_for(model.tokenizer)
    found = {}
    for wording in wordings:
        margins = _read(model, data, wording, steerings, batch_size, any_model)
        if broken := int((~np.isfinite(margins)).any(axis=0).sum()):
            raise NotFiniteError(
                f"the logits of {broken} of {len(data)} scenarios are not finite (wording {wording.name}); use a "
                "smaller |alpha|, and check the model's own logits"
            )
        found[wording.name] = margins
    return found


def _read(
    model: HookedModel,
    data: MoralData,
    wording: Wording,
    steerings: Steering | Sequence[Steering],
    batch_size: int,
    any_model: bool,
    *,
    mass: bool = False,
) -> Float[np.ndarray, "some n"]:
    """Margins of the pairs; with `mass`, below them the probability that each pair's two words have together."""
    prompts, found = wording.prompts(model, data.text), []
    good, bad = (list(side) for side in zip(*pair_tokens(model, wording.pairs), strict=True))
    with torch.inference_mode(), steer(model, steerings, any_model=any_model) as start:
        for first in range(0, len(prompts.ids), batch_size):
            last = min(first + batch_size, len(prompts.ids))
            batch = prompts.tokens(first, last, model.cfg.device or "cpu", left=True)
            start(batch.real, batch.own)
            logits = last_logits(model, last - first)(batch.ids, batch.real.long())
            read = [logits[:, good] - logits[:, bad]]
            if mass:  # over the whole vocabulary
                both = torch.logaddexp(logits[:, good], logits[:, bad])
                read.append((both - logits.logsumexp(dim=1, keepdim=True)).exp())
            found.append(torch.cat(read, dim=1).cpu())
    return torch.cat(found).double().numpy()[prompts.row].T


def _check_names(wordings: Sequence[Wording]) -> None:
    names = [one.name for one in wordings]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"wordings {names}; expected at least one, and each name once")


# Choosing


@shown()
@dataclass(frozen=True)
class PairScore:
    """How one pair does after one wording, on training texts.

    Attributes:
        wording: its name.
        pair: the words.
        mass: probability of the two words together, mean over the scenarios.
        auroc: of the margin, virtuous against vicious scenarios.
        use: `chosen`, `held_out` or `unused`; the same after every wording.
    """

    wording: str
    pair: Pair
    mass: float
    auroc: float
    use: str


@shown()
@dataclass(frozen=True)
class Words:
    """Attributes:
    wordings: those that the model can be asked with, each with its chosen pairs, then its held-out ones.
    scores: of every candidate pair after every such wording.
    left_out: why not, of wordings and of pairs (`wording: approving/disapproving`).
    """

    wordings: tuple[Wording, ...]
    scores: tuple[PairScore, ...]
    left_out: dict[str, str]

    def pairs(self, wording: str, use: str) -> tuple[Pair, ...]:
        """The pairs of a wording that are `chosen`, `held_out` or `unused`.

        Raises:
            ValueError: an unknown name.
        """
        names = [one.name for one in self.wordings]
        if wording not in names:
            raise unknown("wording", wording, names)
        if use not in USES:
            raise unknown("use of a pair", use, USES)
        return tuple(one.pair for one in self.scores if (one.wording, one.use) == (wording, use))

    @property
    def chosen(self) -> dict[str, tuple[Pair, ...]]:
        """{wording: its chosen pairs}."""
        return {one.name: self.pairs(one.name, "chosen") for one in self.wordings}

    @property
    def learnt(self) -> tuple[Wording, ...]:
        """What something may be learnt with: the wordings that are not held out, each with its chosen pairs."""
        chosen = self.chosen
        own = [one for one in self.wordings if not one.held_out and chosen[one.name]]
        return tuple(dataclasses.replace(one, pairs=chosen[one.name]) for one in own)

    @property
    def held_out(self) -> dict[str, tuple[Pair, ...]]:
        """{wording: its held-out pairs}."""
        return {one.name: self.pairs(one.name, "held_out") for one in self.wordings}

    def rows(self, wording: str, use: str) -> list[int]:
        """Where those pairs stand among the margins that `measure` gives of `self.wordings`.

        Raises:
            ValueError: an unknown name.
        """
        wanted = self.pairs(wording, use)
        (own,) = (one for one in self.wordings if one.name == wording)
        return [i for i, pair in enumerate(own.pairs) if pair in wanted]


def usable(model: HookedModel, wordings: Sequence[Wording]) -> tuple[tuple[Wording, ...], dict[str, str]]:
    """The wordings that a model can be asked with, each with the pairs whose words are one token there; and why the
    others are left out. A warning names wordings that are.

    Raises:
        ValueError: no wording is left, or a name twice.
    """
    _check_names(wordings)
    kept, left_out = [], {}
    for wording in wordings:
        pairs = []
        for pair in wording.pairs:
            try:
                pair_tokens(model, [pair])
            except ValueError as error:
                left_out[f"{wording.name}: {_name(pair)}"] = str(error)
            else:
                pairs.append(pair)
        try:
            wording.template_for(model.tokenizer)
        except ValueError as error:
            left_out[wording.name] = str(error).partition(";")[0]
        else:
            if pairs:
                kept.append(dataclasses.replace(wording, pairs=tuple(pairs)))
            else:
                left_out[wording.name] = f"none of its {len(wording.pairs)} pairs of words is two single tokens here"
    missing = [f"{one.name} ({left_out[one.name]})" for one in wordings if one.name in left_out]
    if not kept:
        raise ValueError(f"no wording is left: {'; '.join(missing)}")
    if missing:
        message = f"left out: {'; '.join(missing)}; margins are measured after the other wordings"
        warnings.warn(SaeMoralWarning(message), stacklevel=2)
    return tuple(kept), left_out


def choose_words(
    model: HookedModel | nn.Module,
    data: MoralData,
    wordings: Sequence[Wording] = WORDINGS,
    *,
    each: int = 3,
    batch_size: int = 32,
) -> Words:
    """Choose the pairs of words for a model, and hold others out.

    After every wording the candidates are ranked twice: by the probability that the model gives to their two words, and
    by the AUROC of their margin. The mean of these ranks, as shares, over the wordings of a language that are not held
    out is a pair's rank; the best is chosen, the second held out, the third chosen, and so on: held-out pairs are as
    good as the chosen. A pair has one use after every wording, so that no word that something was learnt from is ever
    held out.

    Args:
        data: TRAINING scenarios of both poles; a few hundred are enough.
        wordings: with their candidates; see `usable` for what is left out.
        each: chosen pairs, and as many held-out ones, per language; all candidates are shared out where they are fewer.

    Raises:
        ValueError: `each` under 1, a pole without scenarios, a word in two pairs, or no wording that the model can use.
        DataError: a scenario longer than the context.

    Example:
        words = choose_words(model, training)
        margins = measure(model, held_out, steering, words.wordings)
        answer, rows = margins["answer"], words.rows("answer", "held_out")
        auroc(answer[rows], held_out, resamples(held_out, 1000))
    """
    if each < 1:
        raise ValueError(f"each is {each}; expected 1 or more")
    model = hooked_model(model)
    given, left_out = usable(model, wordings)
    _check_words(given)
    scores = {one.name: _scores(model, data, one, batch_size) for one in given}
    use: dict[str, str] = {}
    for language in dict.fromkeys(one.language for one in given):
        own = [one for one in given if one.language == language]
        order = _ranked([scores[one.name] for one in own if not one.held_out] or [scores[one.name] for one in own])
        use |= {name: USES[i % 2] if i < 2 * each else "unused" for i, name in enumerate(order)}
    found, kept = [], []
    for one in given:
        used = [dataclasses.replace(score, use=use.get(_name(score.pair), "unused")) for score in scores[one.name]]
        pairs = [score.pair for kind in USES[:2] for score in used if score.use == kind]
        found += used
        if pairs:
            kept.append(dataclasses.replace(one, pairs=tuple(pairs)))
        else:
            left_out[one.name] = "none of its pairs is among the chosen or the held-out ones"
    return Words(tuple(kept), tuple(found), left_out)


def _scores(model: HookedModel, data: MoralData, wording: Wording, batch_size: int) -> list[PairScore]:
    """Of every pair after one wording, without a use yet."""
    moral, virtue = poles(data)
    margins, mass = np.split(_read(model, data, wording, (), batch_size, any_model=False, mass=True), 2)
    once, positive = torch.ones(1, len(virtue), dtype=torch.float64), torch.from_numpy(virtue)[None]
    scores = []
    for pair, margin, share in zip(wording.pairs, margins, mass, strict=True):
        value, _ = ranks.auroc(torch.from_numpy(margin[None, moral]), positive, once)
        scores.append(PairScore(wording.name, pair, float(share.mean()), float(value), "unused"))
    return scores


def _ranked(wordings: Iterable[Sequence[PairScore]]) -> list[str]:
    """Names of the pairs, the best first: see `choose_words`."""
    found: dict[str, list[float]] = {}
    for scores in wordings:
        mass, auroc = (rankdata([getattr(one, name) for one in scores]) for name in ("mass", "auroc"))
        for score, rank in zip(scores, (mass + auroc) / len(scores), strict=True):
            found.setdefault(_name(score.pair), []).append(float(rank))
    return sorted(found, key=lambda name: -sum(found[name]) / len(found[name]))


def _name(pair: Pair) -> str:
    """What a pair is called whatever stands around its words."""
    return "/".join(word.strip().casefold() for word in pair)


def _check_words(wordings: Sequence[Wording]) -> None:
    """No word in two pairs: it could be learnt from in one and held out in the other."""
    pairs = {_name(pair) for one in wordings for pair in one.pairs}
    words = [word for pair in pairs for word in pair.split("/")]
    if twice := sorted({word for word in words if words.count(word) > 1}):
        raise ValueError(f"{twice[0]!r} is in two pairs of words; expected each word in one, so that it has one use")
