"""α for a given damage: what is asked for is what is measured."""

from __future__ import annotations

from typing import Any

import pytest

from sae_moral.steering import Steering, random_direction, side_effects
from sae_moral.steering.strength import NoStrengthError, at_kl
from tests.steering.planted import D, operated, random_sae
from tests.tiny import scenarios

TEXTS = list(dict.fromkeys(scenarios(12).text))


@pytest.mark.parametrize("kl", [1e-4, 0.02, 0.5])
@pytest.mark.parametrize("alpha", [1.0, -30.0, 1e-9, 1e12])
def test_the_kl_that_is_asked_for_is_reached(tiny: Any, kl: float, alpha: float) -> None:
    found = at_kl(tiny, Steering(random_direction(D, 1, 0), alpha), kl, TEXTS)
    assert side_effects(tiny, found, TEXTS).kl == pytest.approx(kl, rel=0.021)
    assert found.alpha * alpha > 0


def test_an_operation_and_its_forms(tiny: Any) -> None:
    operation = operated(random_sae("jumprelu"))
    alphas = set()
    for form in ("edit", "write"):
        found = at_kl(tiny, Steering(operation, 1.0, form=form), 0.02, TEXTS)
        assert found.form == form and side_effects(tiny, found, TEXTS).kl == pytest.approx(0.02, rel=0.021)
        alphas.add(found.alpha)
    assert len(alphas) == 2


def test_what_cannot_be_reached_is_refused(tiny: Any) -> None:
    with pytest.raises(ValueError, match="expected a KL above 0"):
        at_kl(tiny, Steering(random_direction(D, 1, 0), 0.0), 0.02, TEXTS)
    with pytest.raises(ValueError, match="expected a KL above 0"):
        at_kl(tiny, Steering(random_direction(D, 1, 0), 1.0), 0.0, TEXTS)
    with pytest.raises(NoStrengthError, match="no α found at which random direction 0 has a KL of 1000"):
        at_kl(tiny, Steering(random_direction(D, 1, 0), 1.0), 1000.0, TEXTS)
