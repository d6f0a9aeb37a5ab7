"""What is measured: every configuration with its worlds, and the one function that measures a world of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from benchmarks.validity import nulls, worlds
from benchmarks.validity.measuring import measured, record
from benchmarks.validity.worlds import Make, World
from sae_moral.controls import Controls

METRICS = ("categorical", "gradient", "structural", "dimensional")
CHEAP = METRICS[:3]
"""Without the probe that `paper` trains by AdamW, which costs more than all the others."""
SHARES = (0.001, 0.002, 0.005, 0.01, 0.05, 0.2)
"""Of the variance, in power curves."""
CLAIMED = (0.05, 2000)
"""Share of the variance and n at which the audited metrics have to detect nine worlds of ten."""
POWER_METRICS = {
    "polarity": ("categorical", "structural"),
    "typicality": ("gradient",),
    "ten dimensions": ("dimensional",),
}
"""What is planted → the metrics that are about it."""
BIAS_N = (300, 600, 1000, 2000, 4000)
BIAS_D = 50
BIAS_METRICS = {
    "clean polarity": ("categorical", "structural"),
    "clean typicality": ("gradient",),
    "clean ten dimensions": ("dimensional",),
    "clean topics and polarity": ("categorical",),
}


@dataclass(frozen=True)
class Configuration:
    """Attributes:
    name: part / protocol / world / n x d, unique.
    world, n, d: what is planted; `share` where the part varies it.
    controls: what each world is measured with; its seed is the world's.
    count: worlds, seeds 0, 1, …
    """

    part: str
    protocol: str
    world: str
    n: int
    d: int
    count: int
    controls: Controls
    metrics: tuple[str, ...] = METRICS
    share: float | None = None

    @property
    def name(self) -> str:
        planted = self.world if self.share is None else f"{self.world} {self.share}"
        probe = " (probe)" if self.part == "draws" and self.metrics == ("dimensional",) else ""
        return f"{self.part}/{self.protocol}{probe}/{planted}/{self.n}x{self.d}"

    @property
    def turn(self) -> float:
        """How late its worlds come, so that a run that is cut short has the most wanted numbers."""
        if self.part == "verdicts":
            return 0.0
        if self.part.startswith("compared") or self.world in (*HEAVY_WORLDS, *UNTESTABLE):
            return 0.3
        if (self.share, self.n) == CLAIMED or (self.part, self.protocol) == ("draws", "audited"):
            return 2.0 if "layers" in self.world or (self.n * self.d > 25_000 and self.part == "draws") else 0.3
        return 1.0

    @property
    def key(self) -> str:
        """Under which its results are kept: everything that shapes them, but the seed."""
        c = self.controls
        return f"{self.name}/{'+'.join(c.names) or 'none'} {c.resamples} {c.permutations}"

    def measure(self, seed: int) -> dict[str, Any]:
        """One world of it."""
        make = _MAKE[self.world] if self.share is None else _shared(self.world, self.share)
        world = make(seed, self.n, self.d)
        return record(measured(world, self.protocol, replace(self.controls, seed=seed), list(self.metrics)))


def _last(make: Make) -> Make:
    def last(seed: int, n: int, d: int) -> World:
        world = make(seed, n, d)
        return World(world.vectors[-1:], world.data)

    return last


def _everything(strength: float) -> Make:
    return _last(lambda seed, n, d: worlds.everything(seed, n, d, strength=strength, layers=2))


def _shared(world: str, share: float) -> Make:
    make = {
        "polarity": worlds.planted_polarity,
        "typicality": worlds.planted_typicality,
        "ten dimensions": worlds.planted_vectors,
    }[world]
    return lambda seed, n, d: make(seed, n, d, share=share)


CLEAN: Any = {"decay": 0.0, "repeated": 0.0}
"""Isotropic noise, and no text twice: what closed forms know of."""
_MAKE: Mapping[str, Make] = {
    "labels shuffled": worlds.shuffled,
    "labels shuffled, four layers": lambda seed, n, d: worlds.shuffled(seed, n, d, layers=4),
    "length only": worlds.length_only,
    "length only, rho 0.2": lambda seed, n, d: worlds.length_only(seed, n, d, rho=0.2),
    "sink only": worlds.sink_only,
    "rogue dimension": worlds.rogue_dimension,
    "topic words": worlds.topic_words,
    "foundations as clusters": worlds.planted_clusters,
    "polarity 5 %": lambda seed, n, d: worlds.planted_polarity(seed, n, d, share=0.05),
    "polarity 5 %, in 10 dimensions": lambda seed, n, d: worlds.planted_polarity(seed, n, d, share=0.05, dimensions=10),
    "typicality 5 %": lambda seed, n, d: worlds.planted_typicality(seed, n, d, share=0.05),
    "ten dimensions 10 %": lambda seed, n, d: worlds.planted_vectors(seed, n, d, share=0.1),
    "everything": worlds.everything,
    "weak": _everything(0.005),
    "middle": _everything(0.05),
    "strong": _everything(0.2),
    "steps of length": lambda seed, n, d: nulls.nonlinear_length(seed, n, d, code="steps"),
    "one-hot length": lambda seed, n, d: nulls.nonlinear_length(seed, n, d, code="one-hot"),
    "families of paraphrases": lambda seed, n, d: nulls.family_noise(seed, n, d, words=False),
    "families of words": lambda seed, n, d: nulls.family_noise(seed, n, d, words=True),
    "families of paraphrases, near": lambda seed, n, d: nulls.family_noise(seed, n, d, words=False, groups="near"),
    "families of words, near": lambda seed, n, d: nulls.family_noise(seed, n, d, words=True, groups="near"),
    "noise, n < d": worlds.noise,
    "95 % vice": lambda seed, n, d: nulls.one_pole(seed, n, d, vice=0.95),
    "no virtue": lambda seed, n, d: nulls.one_pole(seed, n, d, vice=1.0),
    "no virtue in two foundations": nulls.missing_virtues,
    "labels that cannot move": nulls.immovable,
    "exclusive or": nulls.exclusive_or,
    "told by words": nulls.told_by_words,
    "polarity 5 % beside heavy tails": lambda seed, n, d: nulls.heavy_tails(seed, n, d, share=0.05, tail=0.9),
    "polarity 5 % of what heavy tails leave": lambda seed, n, d: nulls.heavy_tails(
        seed, n, d, share=0.05 * 0.001, tail=0.999
    ),
    "clean polarity": lambda seed, n, d: worlds.planted_polarity(seed, n, d, share=0.05, **CLEAN),
    "clean typicality": lambda seed, n, d: worlds.planted_typicality(seed, n, d, share=0.05, **CLEAN),
    "clean ten dimensions": lambda seed, n, d: worlds.planted_vectors(seed, n, d, share=0.1, **CLEAN),
    "clean topics and polarity": worlds.topics_and_polarity,
}
VERDICT_WORLDS = (
    *("length only", "length only, rho 0.2", "sink only", "rogue dimension", "topic words"),
    *("foundations as clusters", "polarity 5 %", "polarity 5 %, in 10 dimensions", "typicality 5 %"),
    *("ten dimensions 10 %", "everything", "labels shuffled"),
)
NULLS = ("labels shuffled", "length only", "sink only", "rogue dimension")
"""Worlds without morality, under both protocols."""
MORE_NULLS = (
    *("steps of length", "one-hot length", "families of paraphrases, near", "families of words, near"),
    *("noise, n < d", "no virtue in two foundations", "95 % vice", "exclusive or"),
)
"""Worlds without morality, or without any that a linear reader sees, under `audited`."""
CAUTIOUS = ("95 % vice", "exclusive or")
"""Of these, worlds where a test may have fewer false positives than its level."""
LEAKING = ("families of paraphrases", "families of words")
"""Worlds where a reader that knows one text of a family knows the labels of the others: only equal texts are held
together. `MORE_NULLS` has them with near texts held together."""
BOTH = ("interval", "null")
COMPARED = (("null",), BOTH, ("null", "nuisance", "words"), (*BOTH, "nuisance", "words"))
"""Controls of the part `compared`; only the last say what `found` claims."""
COMPARED_WORLDS = ("polarity 5 %", "told by words")
UNTESTABLE = ("labels that cannot move", "no virtue")
HEAVY_WORLDS = ("polarity 5 % beside heavy tails", "polarity 5 % of what heavy tails leave")


def configurations(quick: bool) -> Iterator[Configuration]:
    """All of them, the most wanted first."""
    few = 4 if quick else None

    def one(part: str, protocol: str, world: str, n: int, d: int, count: int, **more: Any) -> Configuration:
        b, p = more.pop("b", 300), more.pop("p", 99)
        controls = Controls(names=more.pop("names", BOTH), resamples=b, permutations=p)
        return Configuration(part, protocol, world, n, d, few or count, controls, **more)

    yield from _nulls(one)
    yield from _compared(one)
    yield from _coverage(one, quick)
    yield from _power(one, quick)
    yield from _bias(one, quick)
    for world in VERDICT_WORLDS:
        for protocol in ("audited", "paper"):
            more = {"names": (*BOTH, "nuisance", "words"), "b": 500, "p": 199}
            yield replace(one("verdicts", protocol, world, 400 if quick else 1000, 60, 1, **more), count=1)


def _nulls(one: Any) -> Iterator[Configuration]:
    yield one("draws", "audited", "labels shuffled", 300, 20, 300)
    yield one("draws", "audited", "labels shuffled", 600, 40, 200, names=("null",))
    size = {"noise, n < d": 400, "one-hot length": 20}  # the latter has 16 directions
    for world in (*NULLS[1:], *MORE_NULLS):
        yield one("draws", "audited", world, 200, size.get(world, 10), 500, names=("null",))
    for world in LEAKING:
        yield one("draws", "audited", world, 300, 20, 40, names=("null",))
    for world in UNTESTABLE:
        yield one("draws", "audited", world, 300, 20, 40, names=("null",))
    yield one("draws", "audited", "labels shuffled, four layers", 300, 20, 100, names=("null",))
    yield one("draws", "paper", "labels shuffled", 600, 40, 60, metrics=CHEAP)
    yield one("draws", "paper", "labels shuffled", 600, 40, 10, metrics=("dimensional",))
    for world in NULLS[1:]:
        # With what length and word frequency give by themselves: the verdict has to name them.
        yield one("draws", "paper", world, 600, 40, 60, names=(*BOTH, "nuisance"), metrics=CHEAP)
        yield one("draws", "paper", world, 600, 40, 10, names=("null",), metrics=("dimensional",))


def _compared(one: Any) -> Iterator[Configuration]:
    for world in COMPARED_WORLDS:
        for names in COMPARED:
            yield one(f"compared {'+'.join(names)}", "audited", world, 600, 40, 20, names=names)


def _coverage(one: Any, quick: bool) -> Iterator[Configuration]:
    for world in ("weak", "middle", "strong"):
        yield one("draws", "audited", world, 300, 20, 300)
    yield one("draws", "audited", "middle", 600, 40, 100)
    yield one("draws", "audited", "middle", 300, 100, 100)
    yield one("draws", "paper", "middle", 600, 40, 60, metrics=CHEAP)
    if not quick:
        yield one("draws", "audited", "middle", 2000, 40, 30)
        yield one("draws", "audited", "middle", 600, 300, 30)


def _power(one: Any, quick: bool) -> Iterator[Configuration]:
    for n in (500,) if quick else (500, 1000, 2000):
        for share in SHARES[1::2] if quick else SHARES:
            for world, metrics in POWER_METRICS.items():
                more = {"names": ("null",), "p": 39, "share": share, "metrics": metrics}
                # Sixty of sixty put the lower end of a Wilson interval at 94 %.
                yield one("power", "audited", world, n, 100, 60 if (share, n) == CLAIMED else 20, **more)
                if world != "ten dimensions" or n < 2000:
                    yield one("power", "paper", world, n, 100, 5, **more)
    for world in HEAVY_WORLDS:
        more = {"names": ("null",), "p": 39, "metrics": POWER_METRICS["polarity"]}
        yield one("power", "audited", world, *((500, 20) if quick else (2000, 100)), 60, **more)


def _bias(one: Any, quick: bool) -> Iterator[Configuration]:
    for world, metrics in BIAS_METRICS.items():
        for n in BIAS_N[:2] if quick else BIAS_N:
            for protocol in ("audited", "paper"):
                yield one(
                    "bias", protocol, world, n, BIAS_D, 20 if protocol == "audited" else 6, names=(), metrics=metrics
                )


@cache
def by_name(quick: bool) -> dict[str, Configuration]:
    """Name → configuration."""
    found = {configuration.name: configuration for configuration in configurations(quick)}
    assert len(found) == len(list(configurations(quick)))
    return found
