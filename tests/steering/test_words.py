"""Wordings: prompts, which words are chosen, and what a planted model's margins are, in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sae_moral import foundations
from sae_moral.controls.draws import resamples
from sae_moral.errors import SaeMoralWarning
from sae_moral.io import jsonable
from sae_moral.steering import Direction, NotFiniteError, Steering, margin_effect
from sae_moral.steering.words import (
    CHINESE,
    ENGLISH,
    MORALLY,
    WORDINGS,
    Wording,
    choose_words,
    measure,
    usable,
)
from tests.steering.planted import (
    KNOWS,
    SAID,
    SAYS,
    SPOKEN,
    VIRTUE,
    D,
    planted_model,
    planted_operation,
    planted_scenarios,
)
from tests.tiny import scenarios

DATA = planted_scenarios()
VERB = [text.split()[-2] for text in DATA.text]
PAIRS = (("helping", "hitting"), ("is", "the"), ("team", "old"))
FIRST = Wording("first", "morally {text}", PAIRS)
CHAT = "<s>{% for m in messages %}morally {{ m.content }}{% endfor %}"
WEIGHTS = resamples(DATA, 100)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return planted_model(tmp_path_factory.mktemp("planted"))


def margins_by_hand(along: np.ndarray) -> np.ndarray:
    """Of a stream KNOWS ± 1, `along` SAYS, 3 STEADY at the last token, after the final norm of length √D."""
    length = np.sqrt((1 + along**2 + 9) / D)
    weights = np.array([SPOKEN[good] - SPOKEN[bad] for good, bad in PAIRS])
    return weights[:, None] * (along / length)


SAID_OF, LABEL = (np.array([of[verb] for verb in VERB]) for of in (SAID, VIRTUE))


def test_margins_are_those_of_the_planted_direction(planted: Any) -> None:
    plain = measure(planted, DATA, (), [FIRST], batch_size=7)["first"]
    np.testing.assert_allclose(plain, margins_by_hand(SAID_OF), atol=1e-4)
    up = Steering(Direction(1, SAYS, "says"), 0.7)
    np.testing.assert_allclose(measure(planted, DATA, up, [FIRST])["first"], margins_by_hand(SAID_OF + 0.7), atol=1e-4)


def test_a_gate_on_what_it_knows_moves_what_it_says(planted: Any) -> None:
    """Operated latents that read the label and write the judgement; twins read or write something else."""
    plain = measure(planted, DATA, (), [FIRST])["first"]

    def effect(reads: torch.Tensor, writes: torch.Tensor, alpha: float = 6.0) -> Any:
        steering = Steering(planted_operation(reads, writes), alpha)
        return margin_effect(measure(planted, DATA, steering, [FIRST])["first"], plain, DATA, WEIGHTS)

    own = effect(KNOWS, SAYS)
    np.testing.assert_allclose(own.auroc.value, roc_auc_score(LABEL > 0, SAID_OF + 6 * LABEL), atol=1e-6)
    assert own.auroc.value == 1 and own.auroc_change.low > 0.2 and own.pushed_wrong.value == 0
    assert effect(KNOWS, SAYS, -6.0).auroc.value == 0 and effect(KNOWS, SAYS, -6.0).pushed_wrong.value == 1
    rotated, shuffled = effect(KNOWS, torch.eye(D)[5]), effect(SAYS, SAYS)
    assert abs(rotated.auroc_change.value) < 0.1 and own.auroc_change.low > rotated.auroc_change.high
    assert abs(shuffled.auroc_change.value) < 0.1


def test_the_position_of_an_effect(planted: Any) -> None:
    """Blocks that do nothing: only the last token's stream is read, which is the scenario's here."""
    plain = measure(planted, DATA, (), [FIRST])["first"]
    direction = Direction(1, SAYS, "says")
    found = {
        positions: measure(planted, DATA, Steering(direction, 0.7, positions=positions), [FIRST], batch_size=5)["first"]
        for positions in ("all-but-first", "scenario", "template", "last")
    }
    assert np.array_equal(found["template"], plain)
    for positions in ("scenario", "last"):
        assert np.array_equal(found[positions], found["all-but-first"])
    assert not np.allclose(found["last"], plain, atol=1e-2)
    behind = Wording("behind", "{text} morally", PAIRS)  # `morally` is the template's
    scenario, template = (
        measure(planted, DATA, Steering(direction, 0.7, positions=positions), [behind])["behind"]
        for positions in ("scenario", "template")
    )
    unsteered = measure(planted, DATA, (), [behind])["behind"]
    assert np.array_equal(scenario, unsteered) and not np.allclose(template, unsteered, atol=1e-2)


def test_texts_lose_their_final_stop(tiny: Any) -> None:
    morally = Wording("morally", "{text} is morally", (("helping", "hitting"),))
    prompts = morally.prompts(tiny, ["helping the team.", "helping the team", "helping the team 。"])
    assert [tiny.tokenizer.convert_ids_to_tokens(ids) for ids in prompts.ids] == [
        ["<s>", "helping", "the", "team", "is", "morally"]
    ]
    assert list(prompts.row) == [0, 0, 0] and prompts.own.tolist() == [[1, 4]]


def test_the_model_runs_once_per_wording(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sae_moral.steering.words as module

    calls: list[int] = []

    def counted(model: Any, batch: int, **options: Any) -> Any:
        calls.append(batch)
        return real(model, batch, **options)

    real = module.last_logits
    monkeypatch.setattr(module, "last_logits", counted)
    wordings = [FIRST, Wording("second", "{text} is", PAIRS)]
    found = measure(planted, DATA, (), wordings, batch_size=100)
    assert calls == [len(DATA)] * 2
    assert {name: margins.shape for name, margins in found.items()} == {"first": (3, 72), "second": (3, 72)}


# Choosing


def test_mass_and_auroc_are_those_of_the_model(planted: Any) -> None:
    found = choose_words(planted, DATA, [FIRST], each=1)
    assert [one.pair for one in found.scores] == list(PAIRS)
    margins = measure(planted, DATA, (), [FIRST])["first"]
    for score, (good, bad), margin in zip(found.scores, PAIRS, margins, strict=True):
        ids = planted.tokenizer.convert_tokens_to_ids([good, bad])
        masses = []
        for text in DATA.text:
            tokens = planted.tokenizer("<s> morally " + text.removesuffix(" ."), return_tensors="pt").input_ids
            with torch.inference_mode():
                masses.append(float(planted(tokens)[0, -1].softmax(dim=-1)[ids].sum()))
        assert score.mass == pytest.approx(np.mean(masses), rel=1e-4)
        assert score.auroc == pytest.approx(roc_auc_score(DATA.pole == foundations.VIRTUE, margin))
    assert jsonable(found)["scores"][0]["pair"] == ["helping", "hitting"]


MANY = (*PAIRS, ("feeding", "robbing"), ("hugging", "mocking"), ("teaching", "cheating"), ("thanking", "ignoring"))


@pytest.mark.parametrize("each", [1, 2, 3])
def test_held_out_pairs_are_never_among_the_chosen(planted: Any, each: int) -> None:
    wordings = [
        Wording("first", "morally {text}", MANY),
        Wording("second", "{text} is", MANY[:5]),
        Wording("third", "the team is {text}", MANY, held_out=True),
    ]
    found = choose_words(planted, DATA, wordings, each=each)
    chosen, held_out = ({pair for own in one.values() for pair in own} for one in (found.chosen, found.held_out))
    assert not {word for pair in chosen for word in pair} & {word for pair in held_out for word in pair}
    assert len(chosen) == len(held_out) == each
    assert [one.held_out for one in found.wordings] == [False, False, True]
    margins = measure(planted, DATA, (), found.wordings)
    for one in found.wordings:
        assert one.pairs == (*found.chosen[one.name], *found.held_out[one.name])
        assert found.rows(one.name, "held_out") == list(range(len(found.chosen[one.name]), len(one.pairs)))
        assert len(margins[one.name]) == len(one.pairs)


def test_the_best_is_chosen_the_second_held_out(planted: Any) -> None:
    """Ranks by hand; a held-out wording has no say."""
    found = choose_words(planted, DATA, [Wording("first", "morally {text}", MANY)], each=2)
    mass, auroc = ([getattr(one, name) for one in found.scores] for name in ("mass", "auroc"))
    rank = [sum(other <= one for other in mass) for one in mass]
    rank_auroc = [sum(o < a for o in auroc) + (1 + sum(o == a for o in auroc)) / 2 for a in auroc]
    total = np.array(rank) + np.array(rank_auroc)
    order = [found.scores[i].use for i in np.argsort(-total, kind="stable")]
    assert order == ["chosen", "held_out", "chosen", "held_out", "unused", "unused", "unused"]
    other = Wording("other", "{text} is", tuple(reversed(MANY)), held_out=True)
    assert (
        choose_words(planted, DATA, [*[Wording("first", "morally {text}", MANY)], other], each=2).chosen["first"]
        == found.chosen["first"]
    )


def test_words_of_several_tokens_are_left_out_and_named(planted: Any) -> None:
    wordings = [Wording("first", "morally {text}", (*PAIRS, ("helping out", "robbing"), ("kind", "cruel")))]
    found = choose_words(planted, DATA, wordings, each=1)
    assert {one.pair for one in found.scores} == set(PAIRS)
    assert set(found.left_out) == {"first: helping out/robbing", "first: kind/cruel"}
    assert "'helping out' is 2 tokens here" in found.left_out["first: helping out/robbing"]
    with pytest.raises(ValueError, match="'helping out' is 2 tokens here"):
        measure(planted, DATA, (), wordings)


def test_a_model_without_a_chat_template_leaves_the_chat_out(tiny: Any) -> None:
    chat = Wording("chat", "chat: the team is {text}", PAIRS, answer=" the old")
    with pytest.warns(SaeMoralWarning, match=r"left out: chat \(.* has no chat template \(a base model\?\)\); margins"):
        kept, left_out = usable(tiny, [FIRST, chat])
    assert [one.name for one in kept] == ["first"] and "has no chat template" in left_out["chat"]
    with pytest.raises(ValueError, match="no wording is left: chat"):
        usable(tiny, [chat])
    with pytest.raises(ValueError, match="has no chat template"):
        measure(tiny, DATA, (), [FIRST, chat])


def test_a_chat_is_the_models_own_and_the_answer_begins(tiny: Any) -> None:
    tiny.tokenizer.chat_template = CHAT
    chat = Wording("chat", "chat: the team is {text}", PAIRS, answer=" the old")
    assert usable(tiny, [chat]) == ((chat,), {})
    prompts = chat.prompts(tiny, ["helping ."])
    assert tiny.tokenizer.decode(prompts.ids[0]) == "<s> morally the team is helping the old"
    assert prompts.own.tolist() == [[5, 6]]
    written = Wording("plain", "morally the team is {text} the old", PAIRS)
    found = measure(tiny, scenarios(10), (), [chat, written])
    np.testing.assert_allclose(found["chat"], found["plain"], atol=1e-5)


def test_languages_are_ranked_apart(planted: Any) -> None:
    other = Wording("Chinese", "the team is {text}", MANY[3:], "Chinese")
    found = choose_words(planted, DATA, [Wording("first", "morally {text}", PAIRS), other], each=1)
    for name in ("first", "Chinese"):
        assert len(found.chosen[name]) == len(found.held_out[name]) == 1


def test_bad_input_is_refused(planted: Any) -> None:
    for template in ("is morally", "{text} {text}"):
        with pytest.raises(ValueError, match=r"expected exactly one \{text\} in it"):
            Wording("none", template)
    with pytest.raises(ValueError, match=r"the wording plain has an answer, 'It is', and its template .* is no chat"):
        Wording("plain", "{text}", answer="It is")
    with pytest.raises(ValueError, match=r"wordings \['first', 'first'\]; expected at least one, and each name once"):
        measure(planted, DATA, (), [FIRST, FIRST])
    with pytest.raises(ValueError, match=r"wordings \[\]"):
        measure(planted, DATA, (), [])
    twice = Wording("twice", "{text}", (("helping", "hitting"), ("team", "hitting")))
    with pytest.raises(ValueError, match="'hitting' is in two pairs of words; expected each word in one"):
        choose_words(planted, DATA, [twice])
    with pytest.raises(ValueError, match="each is 0; expected 1 or more"):
        choose_words(planted, DATA, [FIRST], each=0)
    with pytest.raises(ValueError, match="0 virtuous and 36 vicious scenarios"):
        choose_words(planted, DATA.subset(DATA.pole == foundations.VICE), [FIRST])
    found = choose_words(planted, DATA, [FIRST], each=1)
    with pytest.raises(ValueError, match="unknown wording 'frist'; did you mean 'first'"):
        found.rows("frist", "chosen")
    with pytest.raises(ValueError, match="unknown use of a pair 'choosen'; did you mean 'chosen'"):
        found.rows("first", "choosen")


def test_margins_that_are_not_finite_are_an_error(planted: Any) -> None:
    loud = [("unembed.hook_out", lambda logits, hook: logits * float("inf"))]
    message = r"the logits of 72 of 72 scenarios are not finite \(wording first\)"
    with planted.hooks(fwd_hooks=loud), pytest.raises(NotFiniteError, match=message):
        measure(planted, DATA, (), [FIRST])


def test_the_wordings_offered() -> None:
    """Three English templates at least, one of them a chat, one held out, and a Chinese one."""
    names = [one.name for one in WORDINGS]
    assert len(names) == len(set(names)) >= 5 and MORALLY in WORDINGS
    assert [one.name for one in WORDINGS if one.held_out] == ["answer"]
    assert sum(one.template.startswith("chat:") for one in WORDINGS) == 1
    assert sum(one.language == "English" for one in WORDINGS) >= 4
    for pairs in (ENGLISH, CHINESE):
        words = [word for pair in pairs for word in pair]
        assert len(words) == len(set(words)) >= 20
    assert all(word.startswith(" ") for pair in ENGLISH for word in pair)
