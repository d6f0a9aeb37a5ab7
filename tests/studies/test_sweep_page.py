"""The page of a sweep: its sentences say what is so."""

from __future__ import annotations

from sae_moral.studies.sweep_page import verdicts
from sae_moral.studies.sweep_results import SweepRow


def test_verdicts() -> None:
    def row(alpha: float, low: float | None, high: float | None, p: float | None = 0.05) -> SweepRow:
        over = None if low is None else (low + high) / 2  # pyright: ignore[reportOptionalOperand]
        ends = {"over_random": over, "over_random_low": low, "over_random_high": high}
        return SweepRow("op", 3, "edit", alpha, "operated", kl=0.5, p_random=p, **ends)

    start = "- op, layer 3, form edit: "
    better = verdicts([row(1, -0.1, 0.1), row(2, 0.1, 0.3)])
    at = "at α = 2 (+0.200 nats, KL 0.5)"
    assert better == [f"{start}beats random directions of its norm (p = 0.05) {at}."]
    above = f"{start}is above the mean of random directions of its norm {at}, but "
    assert verdicts([row(2, 0.1, 0.3, 0.4)]) == [f"{above}as many of them gain as much that p = 0.4."]
    assert verdicts([row(2, 0.1, 0.3, None)]) == [f"{above}their spread is not known."]
    none = verdicts([row(1, -0.1, 0.1), row(2, -0.3, -0.1)])
    beats_none = "- op, layer 3, form edit: beats random directions of its norm at none of the 2 strengths"
    assert none == [f"{beats_none}; is below their mean at 1."]
