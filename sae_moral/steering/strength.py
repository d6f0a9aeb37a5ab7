"""How strong a steering is by what it breaks: α for a given KL on neutral text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cache

from torch import nn

from sae_moral.provenance import HookedModel
from sae_moral.steering.effects import Neutral, SideEffects
from sae_moral.steering.hooks import NotFiniteError
from sae_moral.steering.steering import Steering

TOLERANCE, FAR = 0.02, (1e-5, 1e5)
"""Of the KL that is reached, relative; and how far off it may be and still say by how much."""
SECANT, STEEP = 4, (0.5, 8.0)
"""Steps of the secant method in log α before a bracket is looked for, and slopes of log KL that it believes."""


class NoStrengthError(RuntimeError):
    """No α has the damage that was asked for."""


def at_kl(
    model: HookedModel | nn.Module,
    steering: Steering,
    kl: float,
    texts: Sequence[str] | None = None,
    *,
    any_model: bool = False,
) -> Steering:
    """The steering with the α, of the sign it has, at which KL(unsteered ‖ steered) on neutral text is `kl`.

    KL grows as α² while α is small: a few steps by that rule come near, and Brent's method closes in.

    Args:
        kl: nats per token.
        texts: as for `side_effects`.

    Raises:
        ValueError: a KL that is not above 0, or α = 0.
        NoStrengthError: no α found, where KL does not grow with it.

    Example:
        steering = at_kl(model, Steering(operation, 1.0, form="write"), 0.02)
    """
    (found,), _ = with_kl(model, [steering], kl, texts, any_model=any_model)
    return found


def with_kl(
    model: HookedModel | nn.Module,
    steerings: Sequence[Steering],
    kl: float,
    texts: Sequence[str] | Neutral | None = None,
    *,
    any_model: bool = False,
) -> tuple[list[Steering], SideEffects]:
    """`at_kl` of several steerings together (of several layers, say), whose αs keep their ratios; and the side effects
    of what it found. Arguments and errors as there; `texts` may be a `Neutral` of this model, which keeps what it makes
    of them unsteered."""
    from scipy.optimize import root_scalar

    alphas = [one.alpha for one in steerings]
    if not 0 < kl < math.inf or not alphas or not all(alphas):
        raise ValueError(f"kl {kl} and α {alphas}; expected a KL above 0, and an α that says which way")
    neutral = texts if isinstance(texts, Neutral) else Neutral(model, texts)
    largest, name = max(map(abs, alphas)), " and ".join(one.name for one in steerings)
    seen: dict[float, tuple[list[Steering], SideEffects]] = {}

    @cache
    def excess(log_alpha: float) -> float:
        factor = math.exp(log_alpha) / largest
        tried = [dataclasses.replace(one, alpha=one.alpha * factor) for one in steerings]
        try:
            effects = neutral.side_effects(tried, any_model=any_model)
        except NotFiniteError:
            found = math.nan
        else:
            seen[log_alpha] = tried, effects
            found = effects.kl
        found = math.inf if math.isnan(found) else found
        if not FAR[0] < found / kl < FAR[1]:  # not finite, or rounded to 0: only the way to go is known
            return math.copysign(math.log(FAR[1]), found - kl)
        value = math.log(found / kl)
        return 0.0 if abs(value) <= TOLERANCE else value  # near enough ends the search

    log_alpha = math.log(largest)
    first, slope = excess(log_alpha), 2.0
    if not first:
        return seen[log_alpha]
    for i in range(12):  # KL ∝ α² while α is small, and each step knows the slope better; then by longer and longer
        length = min(5.0, abs(first) / slope)  # steps, until it lies between two of them
        second = log_alpha - math.copysign(length if i < SECANT else max(length, i), first)
        value = excess(second)
        if not value:
            return seen[second]
        if i >= SECANT and (value > 0) != (first > 0):
            break
        grown = (value - first) / (second - log_alpha)
        slope = grown if STEEP[0] < grown < STEEP[1] else 2.0
        log_alpha, first = second, value
    else:
        raise NoStrengthError(f"no α found at which {name} has a KL of {kl}; expected one that grows with α")
    root_scalar(excess, bracket=sorted((log_alpha, second)), method="brentq", rtol=1e-4, xtol=TOLERANCE / 8)
    nearest = min(seen.values(), key=lambda one: abs(math.log(one[1].kl / kl)) if one[1].kl > 0 else math.inf)
    if abs(nearest[1].kl / kl - 1) > 2 * TOLERANCE:
        raise NoStrengthError(f"KL of {name} jumps over {kl}, to {nearest[1].kl:.3g}; expected one that grows")
    return nearest
