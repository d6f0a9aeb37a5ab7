"""Which controls a diagnosis runs, and how many draws they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sae_moral.errors import unknown

LENGTH_STRATUM = 5
"""Texts per stratum of length, at least: of labels permuted among m texts one in m stays by chance."""
NAMES = (
    "interval",
    "null",
    "nuisance",
    "words",
    "valence",
    "embeddings",
    "selectivity",
    "random-weights",
    "learning-curve",
)
DEFAULT = NAMES[:-2]
"""All but `random-weights`, which needs a second model and a second capture, and `learning-curve`, which measures every
metric some 40 times more at its best layer."""


@dataclass(frozen=True)
class Controls:
    """Attributes:
    names: of `NAMES`; the ceiling of labels costs nothing and is always there.
    resamples: bootstrap samples of texts.
    permutations: of labels; with 199 the smallest p is 0.005. Within opening words there are fewer (`fewer`), as there
        are fits to resampled texts.
    level: of intervals and null bands.
    alpha: of verdicts.
    stratum: texts per stratum of length that labels are permuted within; None for any length.
    seed: of everything drawn.
    margin: by a metric's name, the largest lead over a baseline or over chance that counts as none, in place of the one
        that the metric declares.
    """

    names: tuple[str, ...] = field(default=DEFAULT)
    resamples: int = 1000
    permutations: int = 199
    level: float = 0.95
    alpha: float = 0.05
    stratum: int | None = LENGTH_STRATUM
    seed: int = 0
    margin: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in NAMES:
                raise unknown("control", name, (*NAMES, "default", "all", "none"))
        smallest = {"resamples": 50, "permutations": 19}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}; expected at least {least}")
        if not (0 < self.level < 1 and 0 < self.alpha < 1):
            raise ValueError(f"level {self.level}, alpha {self.alpha}; expected numbers between 0 and 1")
        if self.stratum is not None and self.stratum < 2:
            raise ValueError(f"stratum = {self.stratum} texts; expected at least 2, or None for any length")
        for name, margin in self.margin.items():
            if not 0 < margin < float("inf"):
                raise ValueError(
                    f"margin of {name} = {margin}; expected a positive number in the units of its headline"
                )

    def __contains__(self, name: str) -> bool:
        return name in self.names

    @property
    def fewer(self) -> int:
        """Draws for a spread or a p-value beside another: half of `permutations`, or 49 of them."""
        return max(min(49, self.permutations), self.permutations // 2)

    @property
    def monte_carlo(self) -> dict[str, float]:
        """Standard errors that the number of draws leaves: of the tail probability at an interval's ends, and of a
        p-value at alpha."""
        tail = (1 - self.level) / 2
        return {
            "interval_tail": round((tail * (1 - tail) / self.resamples) ** 0.5, 5),
            "p_value": round((self.alpha * (1 - self.alpha) / self.permutations) ** 0.5, 5),
        }


def get_controls(controls: str | Sequence[str] | Controls) -> Controls:
    """`default`, `all`, `none`, names with commas or in a sequence, or the given ones.

    Raises:
        ValueError: unknown name.
    """
    if isinstance(controls, Controls):
        return controls
    named: dict[str, tuple[str, ...]] = {"default": DEFAULT, "all": NAMES, "none": ()}
    if isinstance(controls, str):
        names = named.get(controls, tuple(part.strip() for part in controls.split(",") if part.strip()))
    else:
        names = tuple(controls)
    return replace(Controls(), names=tuple(dict.fromkeys(names)))
