"""The noise ceiling: planted worlds of known ICC, an analysis of variance by hand, and what counts as repeated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sae_moral.data import load_data, load_social_chem
from sae_moral.data.moral_data import from_records
from sae_moral.data.reliability import LABELS, Reliability, icc, known_reliability, label_reliability, reliability
from sae_moral.data.social_chem import records
from sae_moral.data.social_chem_tsv import Annotations, read_annotations
from sae_moral.errors import DataError
from tests.data.invented_social_chem import write_table


def _world(truth: float, sizes: list[int], texts: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    groups = np.repeat(np.arange(texts), rng.choice(sizes, texts))
    values = np.sqrt(truth) * rng.normal(size=texts)[groups] + np.sqrt(1 - truth) * rng.normal(size=len(groups))
    return 3 * values - 7, groups


def test_it_equals_an_analysis_of_variance_by_hand() -> None:
    # Three texts: 1, 3 | 5, 6, 7 | 4. Means 2, 6, 4, grand mean 26 / 6. Within: 2 + 2 + 0 = 4 on 3 degrees of freedom.
    # Between: 2·(2 − 13/3)² + 3·(6 − 13/3)² + (4 − 13/3)² = 58/3 on 2. n₀ = (6 − 14/6) / 2 = 11/6.
    values, groups = np.array([1.0, 3, 5, 6, 7, 4]), np.array([9, 9, 2, 2, 2, 5])
    msb, msw, n0 = 58 / 6, 4 / 3, 11 / 6
    assert icc(values, groups) == pytest.approx((msb - msw) / (msb + (n0 - 1) * msw))
    several = reliability(values, groups)
    assert (several.n_texts, several.n_annotations) == (2, 5)
    assert several.value == pytest.approx(icc(values[:5], groups[:5]))


def test_it_equals_the_correlation_of_pairs_in_both_orders() -> None:
    rng = np.random.default_rng(0)
    values, groups = _world(0.4, [2], 4000, rng)
    pairs = values.reshape(-1, 2)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    assert icc(values, groups) == pytest.approx(np.corrcoef(both.T)[0, 1], abs=1e-3)


@pytest.mark.parametrize(("truth", "sizes", "texts"), [(0.2, [2, 3, 8], 80), (0.5, [2, 3], 80), (0.8, [2, 2, 5], 60)])
def test_the_interval_covers_a_planted_truth(truth: float, sizes: list[int], texts: int) -> None:
    rng = np.random.default_rng(7)
    worlds = [reliability(*_world(truth, sizes, texts, rng)) for _ in range(200)]
    covered = np.mean([found.ci_low <= truth <= found.ci_high for found in worlds])
    assert 0.89 <= covered <= 0.99, covered
    assert np.mean([found.value for found in worlds]) == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize("truth", [0.3, 0.7])
def test_the_ceilings_are_what_a_perfect_predictor_reaches(truth: float) -> None:
    rng = np.random.default_rng(3)
    texts = 20_000
    scores = np.sqrt(truth) * rng.normal(size=texts)
    values = scores[:, None] + np.sqrt(1 - truth) * rng.normal(size=(texts, 2))
    found = reliability(values.ravel(), np.repeat(np.arange(texts), 2))
    reached = np.corrcoef(scores, values[:, 0])[0, 1]
    assert found.correlation_ceiling[0] == pytest.approx(reached, abs=0.02)
    assert found.r2_ceiling[0] == pytest.approx(reached**2, abs=0.02)
    ranks = reliability(np.exp(values).ravel(), np.repeat(np.arange(texts), 2), ranks=True)
    from scipy.stats import spearmanr

    assert ranks.correlation_ceiling[0] == pytest.approx(spearmanr(scores, values[:, 0])[0], abs=0.02)


def test_labels_without_information_have_a_ceiling_of_zero() -> None:
    rng = np.random.default_rng(5)
    found = reliability(rng.normal(size=400), np.repeat(np.arange(100), 4))
    assert found.ci_low < 0 < found.ci_high
    assert found.correlation_ceiling[0] >= 0


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    values, groups = _world(0.5, [2], 50, rng)
    copies = np.concatenate([groups + 1000 * i for i in range(8)])
    repeated = np.tile(values, 8)
    loose = reliability(repeated, copies)
    tight = reliability(repeated, copies, np.tile(groups, 8))
    assert tight.value == loose.value
    assert tight.ci_high - tight.ci_low > 2 * (loose.ci_high - loose.ci_low)


@pytest.mark.parametrize(
    ("values", "groups", "word"),
    [
        ([1.0, 2, 3], [0, 1, 2], "no text with two annotations"),
        ([1.0, 2], [0, 0], "needs two texts"),
        ([1.0, 1, 1, 1], [0, 0, 1, 1], "not all equal"),
        ([1.0, np.nan, 1, 1], [0, 0, 1, 1], "not finite"),
    ],
)
def test_what_has_no_reliability_is_refused(values: list[float], groups: list[int], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        reliability(np.array(values), np.array(groups))


def _harm(strength: float) -> np.ndarray:
    return np.array([0, strength, *[0] * 8])


def test_repeated_are_other_ids_with_the_same_text_and_foundation() -> None:
    both = np.array([0, 0.5, 0, 0.5, *[0] * 6])
    records = [
        ("a", "hiding a kite", _harm(0.5), 0), ("b", "Hiding a kite.", _harm(0.75), 0),
        ("c", "folding", both, 0), ("c", "folding", both, 1), ("c", "folding", both, 0),  # one annotation, drawn twice
        ("d", "folding", _harm(0.25), 0), ("e", "counting", _harm(1), 0),
    ]  # fmt: skip
    found = label_reliability(from_records(records, {}))
    assert found is not None
    assert (found.n_texts, found.n_annotations) == (2, 4)
    assert found.value == pytest.approx(icc(np.array([0.5, 0.75, 0.5, 0.25]), np.array([0, 0, 1, 1])))
    assert label_reliability(from_records(records, {}), "polarity") is None  # all are vices
    assert label_reliability(from_records(records[2:], {})) is None  # one text only
    with pytest.raises((ValueError, TypeError), match=r"typicalty"):
        label_reliability(from_records(records, {}), "typicalty")  # type: ignore[arg-type]


def test_the_raw_table_gives_its_repeated_rules(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.tsv", 6000)
    annotations = read_annotations(table)
    found = label_reliability(annotations, "valence")
    assert found is not None
    rules = [rule for rule, m in zip(annotations.rot_id, annotations.m, strict=True) if m > 1]
    assert found.n_annotations == sum(rules.count(rule) for rule in set(rules) if rules.count(rule) > 1)
    assert found.ci_low < 0 < found.ci_high  # the invented labels are random
    assert label_reliability(load_social_chem(table)) is not None


def test_the_published_sample_has_a_ceiling(shared: Callable[[str], Path]) -> None:
    data = load_data(shared("social-chem-101/stratified_sample.jsonl"))
    typicality, valence = (label_reliability(data, label) for label in ("typicality", "valence"))
    assert typicality is not None
    assert valence is not None
    assert (typicality.n_texts, typicality.n_annotations) == (44, 104)
    assert (valence.n_texts, valence.n_annotations) == (46, 109)
    assert typicality.value == pytest.approx(0.354, abs=0.001)
    assert valence.value == pytest.approx(0.875, abs=0.001)
    assert typicality.ci_high < valence.ci_low
    assert typicality.why_no_ceiling is not None and valence.why_no_ceiling is None
    ranks = known_reliability(data, "typicality")
    assert ranks is not None and ranks.ranks and ranks.why_no_ceiling is None


def test_most_sources_have_no_repeated_annotations(shared: Callable[[str], Path]) -> None:
    assert label_reliability(load_data(shared("vignettes/clifford_2015.jsonl"))) is None


def test_means_of_strata_are_no_differences_between_texts() -> None:
    # By hand, two strata. First: 1, 3 | 5, 6, 7: means 2, 6, grand mean 22 / 5, between 2·2.4² + 3·1.6² = 19.2 on 1.
    # Second, 100 higher: 0, 2 | 2, 4: means 1, 3, between 2·1 + 2·1 = 4 on 1. Within: 4 + 4 on 5 degrees of freedom.
    # n₀ = (9 − 13/5 − 8/4) / 2 = 2.2.
    values = np.array([1.0, 3, 5, 6, 7, 100, 102, 102, 104])
    groups, strata = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3]), np.array([0] * 5 + [1] * 4)
    msb, msw, n0 = 23.2 / 2, 8 / 5, 2.2
    assert icc(values, groups, strata) == pytest.approx((msb - msw) / (msb + (n0 - 1) * msw))
    assert icc(values, groups) > 0.99
    found = reliability(values, groups, strata=strata)
    assert found.variance == pytest.approx(msw + (msb - msw) / n0)


@pytest.mark.parametrize("truth", [0.3, 0.6])
def test_few_texts_in_many_strata_are_covered(truth: float) -> None:
    rng, worlds = np.random.default_rng(11), []
    for _ in range(250):
        values, groups = _world(truth, [2, 2, 3], 46, rng)
        stratum = rng.integers(10, size=46)
        worlds.append(reliability(values + 5 * stratum[groups], groups, strata=stratum[groups]))
    covered = np.mean([found.ci_low <= truth <= found.ci_high for found in worlds])
    assert 0.93 <= covered <= 1.0, covered
    assert np.mean([found.value for found in worlds]) == pytest.approx(truth, abs=0.03)


def test_texts_that_all_agree_have_an_interval_that_says_nothing() -> None:
    found = reliability(np.array([1.0, 1, 2, 2, 3, 3]), np.array([0, 0, 1, 1, 2, 2]))
    assert (found.value, found.ci_low, found.ci_high) == (1.0, -1.0, 1.0)
    assert found.why_no_ceiling == "fewer than 20 texts"


def test_a_sample_chosen_by_label_has_the_reliability_of_its_spread() -> None:
    rng, truth = np.random.default_rng(4), 0.4
    scores = np.sqrt(truth) * rng.normal(size=(200_000))
    labels = scores + np.sqrt(1 - truth) * rng.normal(size=200_000)
    low, high = (np.flatnonzero(side) for side in (labels < -1, labels > 1))
    middle = rng.choice(np.flatnonzero(np.abs(labels) <= 1), len(low) // 2, replace=False)
    chosen = np.concatenate([low, high, middle])
    known = Reliability("valence", truth, 0.3, 0.5, 100, 200, 0.95, False, 1.0)
    there = known.at_spread(float(labels[chosen].var()))
    reached = np.corrcoef(scores[chosen], labels[chosen])[0, 1]
    assert there.correlation_ceiling[0] == pytest.approx(reached, abs=0.01)
    assert there.ci_low < there.value < there.ci_high and there.value > truth + 0.1
    assert known.at_spread(1.0).value == pytest.approx(truth)
    with pytest.raises(ValueError, match="of ranks"):
        reliability(np.array([1.0, 2, 2, 3]), np.array([0, 0, 1, 1]), ranks=True).at_spread(1.0)


@pytest.mark.parametrize(
    ("n", "low", "high", "why"),
    [
        (19, 0.4, 0.6, "fewer than 20 texts"),
        (50, -0.1, 0.6, "the interval reaches 0"),
        (50, 0.01, 0.64, "the interval of the ceiling, 0.10 to 0.80, is too wide"),
        (50, 0.36, 0.64, None),
    ],
)
def test_what_is_too_uncertain_is_no_ceiling(n: int, low: float, high: float, why: str | None) -> None:
    assert Reliability("typicality", 0.5, low, high, n, 2 * n, 0.95, True, 0.08).why_no_ceiling == why


def test_a_source_with_several_workers_says_how_reliable_its_labels_are() -> None:
    rng = np.random.default_rng(8)
    rules = np.repeat(np.arange(150), 5)  # of each the first annotation is the only one of its own rule, m = 1
    severity = rng.normal(size=150)[rules]
    agreement = np.clip(np.round(2 + severity + 0.7 * rng.normal(size=750)), 1, 4)
    alone = np.arange(750) % 5 == 0
    judgment = np.where(rules % 3 == 0, 2.0, -1.0)
    foundations = tuple(((0,), (1, 3))[rule % 2] for rule in rules)
    names = tuple(f"rot/{rule}{'-alone' * bool(one)}" for rule, one in zip(rules, alone, strict=True))
    text = tuple(f"text {rule}" for rule in rules)
    m = np.where(alone, 1, 4)
    table = Annotations("a.tsv", "0", 750, np.arange(750), text, foundations, judgment, agreement, m, names, {}, {})
    data = records(table)
    for label, n_texts in zip(LABELS, (225, 150, 150), strict=True):
        given, own = data.provenance["reliability"][label], label_reliability(table, label)
        assert own is not None and given == dataclasses.asdict(own)
        assert own.n_texts == n_texts  # within a pole, one for each foundation named
        known = known_reliability(data.subset(data.typicality > 0.2), label)
        assert known is not None and not known.ranks and known.n_texts == n_texts
    typicality = label_reliability(table)
    assert typicality is not None and 0.4 < typicality.ci_low < typicality.value < 0.8
    one_each = dataclasses.replace(table, m=np.ones(750, dtype=np.int64))
    assert records(one_each).provenance["reliability"] == {}
    broken = dataclasses.replace(data, provenance={"reliability": {"typicality": {"value": 0.5}}})
    with pytest.raises(DataError, match="the provenance of the data"):
        known_reliability(broken, "typicality")
