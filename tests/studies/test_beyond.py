"""Operations against twins: differences by hand, intervals over texts and seeds that cover, ranks as p-values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sae_moral.studies.beyond import TOGETHER, Beyond, compare, sentence

WORDS = ("morally", "held_out")


def arms(own: list[float], twins: list[float], *, layer: int = 9, draws: int = 400, seed: int = 0) -> dict[Any, Any]:
    """AUROCs whose draws share the texts' noise."""
    rng = np.random.default_rng(seed)
    texts = rng.normal(scale=0.02, size=draws)
    one, other = ([np.r_[v, v + texts + rng.normal(scale=1e-3, size=draws)] for v in values] for values in (own, twins))
    return {(layer, "write", 0.02): {"operated": {WORDS: one}, "rotated": {WORDS: other}}}


def test_the_difference_is_of_means_and_texts_are_paired() -> None:
    (found,) = compare(arms([0.75, 0.77], [0.6, 0.7, 0.65]), operated="operated")
    assert found.difference == pytest.approx(0.76 - 0.65)
    assert (found.operations, found.twins, found.p) == (2, 3, None)
    # The texts' noise of 0.02 is on both sides and cancels; what is left is the spread of seeds and twins.
    spread = np.hypot(np.std([0.75, 0.77]) / 2**0.5, np.std([0.6, 0.7, 0.65]) / 3**0.5)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert found.holds


def test_a_single_operation_has_the_texts_interval() -> None:
    given = arms([0.75], [0.7])
    (found,) = compare(given, operated="operated")
    own, other = (given[9, "write", 0.02][arm][WORDS][0] for arm in ("operated", "rotated"))
    low, high = np.percentile((own - other)[1:], [2.5, 97.5])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def ranked(values: dict[int, float], twins: dict[int, np.ndarray]) -> dict[int, Beyond]:
    """By layer."""
    given = {}
    for layer, value in values.items():
        given |= arms([value], list(twins[layer]), layer=layer, draws=2)
    return {one.layer: one for one in compare(given, operated="operated")}


def test_p_is_the_rank_among_twins_and_over_layers_that_among_their_highest() -> None:
    twins, values = np.linspace(0.5, 0.68, 19), {9: 0.7, 12: 0.675}
    own = {9: twins, 12: twins[::-1]}
    found = ranked(values, own)
    for layer, value in values.items():
        assert found[layer].p == (1 + (own[layer] >= value).sum()) / 20
    pools = {layer: np.r_[values[layer], own[layer]] for layer in values}
    units = {layer: (pool - pool.mean()) / pool.std() for layer, pool in pools.items()}
    highest = np.maximum(units[9][1:], units[12][1:])
    for layer in values:
        assert found[layer].p_corrected == (1 + (highest >= units[layer][0]).sum()) / 20
    assert found[9].holds and found[12].p == 2 / 20 and found[12].p_corrected == 3 / 20


def test_a_layer_whose_twins_scatter_does_not_decide_about_another() -> None:
    twins = np.random.default_rng(0).permutation(np.linspace(-1, 1, 19))
    calm, wild = 0.7 + 0.001 * twins, 0.7 + 0.1 * np.roll(twins, 5)
    found = ranked({9: 0.705, 12: 0.7}, {9: calm, 12: wild})
    assert found[9].p_corrected == 1 / 20 and found[12].p_corrected is not None and found[12].p_corrected > 0.3
    again = ranked({9: 0.5 + 50 * 0.005, 12: 0.7}, {9: 0.5 + 50 * (calm - 0.7), 12: wild})
    assert [one.p_corrected for one in again.values()] == [one.p_corrected for one in found.values()]


def test_p_over_layers_is_uniform_where_operations_are_one_more_twin() -> None:
    rng, n, spread = np.random.default_rng(2), 1000, np.array([0.001, 0.01, 0.1])
    first = 0
    for _ in range(n):
        units = rng.normal(size=(20, 1)) + rng.standard_t(3, size=(20, 3))
        drawn = 0.7 + spread * units
        found = ranked(dict(enumerate(drawn[0])), dict(enumerate(drawn[1:].T)))
        first += any(one.p_corrected == 1 / 20 for one in found.values())
    assert 0.034 <= first / n <= 0.067  # 0.05, three standard errors


def test_layers_with_different_numbers_of_twins_are_corrected_by_holm() -> None:
    given = arms([0.7], list(np.linspace(0.5, 0.6, 39)), layer=9) | arms(
        [0.7], list(np.linspace(0.5, 0.6, 19)), layer=12
    )
    assert [one.p_corrected for one in compare(given, operated="operated")] == [2 / 40, 2 / 40]


def test_few_twins_have_no_rank_that_could_never_be_small_enough() -> None:
    for twins, p in ((18, None), (19, 1 / 20)):
        (found,) = compare(arms([0.75, 0.76], list(np.linspace(0.6, 0.65, twins))), operated="operated")
        assert found.p == p and found.holds


def test_intervals_over_texts_and_seeds_cover_the_difference() -> None:
    rng, covered, n = np.random.default_rng(1), 0, 300
    for i in range(n):
        own, twins = 0.7 + rng.normal(scale=0.02, size=8), 0.65 + rng.normal(scale=0.02, size=19)
        texts = rng.normal(scale=0.01)
        given = arms(list(own + texts), list(twins + texts), seed=i, draws=200)
        (found,) = compare(given, operated="operated")
        covered += found.low <= 0.05 <= found.high
    assert 0.88 <= covered / n <= 0.98  # eight seeds: percentiles are a little short


def test_the_sentence_says_what_holds_and_what_does_not() -> None:
    how = (20, "write", 0.02, TOGETHER, "held_out")
    found = [
        Beyond(*how, "rotated", 5, 119, 0.08, 0.05, 0.11, 0.0083, 0.033),
        Beyond(*how, "dense", 5, 1, 0.01, -0.02, 0.03),
        Beyond(*how[:4], "chosen", "valence", 5, 1, 0.2, 0.1, 0.3),
    ]
    assert sentence(found, how[:3], "held_out", [0.05, 0.07]) == (
        "After block 20 (write, KL 0.02), change of the AUROC of held-out words: +0.060 (2 operations); beyond rotated "
        "(+0.080 [+0.050, +0.110]); not shown to be beyond dense (+0.010 [−0.020, +0.030])."
    )
    assert sentence(found, (3, "write", 0.02), "chosen", [0.1]).endswith(
        ": +0.100 (one operation); no twin was measured."
    )
    assert "held-out words: not measured; beyond" in sentence(found, how[:3], "held_out")
