"""The arms of a run: an operation, its twins at the same strength, and the model as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_moral.errors import DataError
from sae_moral.io import read_json
from sae_moral.shown import shown
from sae_moral_inspect.answers import BASELINE, KINDS
from sae_moral_inspect.configuration import LEARNT, RECORD


@dataclass(frozen=True)
class Arm:
    """One way to answer all prompts.

    Attributes:
        name: in tables, and of the file of its answers.
        kind: baseline, or one of `KINDS`.
        layer, alpha, kl: where and how strongly it is steered; None for the baseline, and for several layers together.
        arguments: for the provider.
        seed: of the sampling.
    """

    name: str
    kind: str
    layer: int | None = None
    alpha: float | None = None
    kl: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


@shown()
@dataclass(frozen=True)
class Neutral:
    """What a steering does to neutral text; see `sae_moral.steering.SideEffects`. None where it is not finite."""

    kl: float | None
    perplexity_ratio: float | None
    top_agreement: float | None
    norm_share: float | None
    n: int


@shown()
@dataclass(frozen=True)
class ArmAbout:
    """One way to answer all prompts.

    Attributes:
        name: in tables, and of the file of its answers.
        kind: baseline, or one of `KINDS`; `given` for answers made elsewhere.
        layer, alpha: where and how strongly it is steered; None for the baseline, and for several layers together.
        identity: everything that shaped its answers but prompts and decoding; None for answers made elsewhere.
        neutral: what it does to neutral text; None where nothing is steered.
        kl: the KL on neutral text that its strength was chosen for; None where α was given.
    """

    name: str
    kind: str
    layer: int | None = None
    alpha: float | None = None
    identity: dict[str, Any] | None = None
    neutral: Neutral | None = None
    kl: float | None = None


def arms_of(
    operations: Sequence[str | Path],
    *,
    shuffled: Sequence[str | Path] = (),
    twins: str | Path | None = None,
    alphas: Sequence[float] = (),
    kls: Sequence[float] = (),
    kinds: Sequence[str] = KINDS[:4],
    rotations: int = 1,
    together: bool = False,
    seed: int = 0,
    **common: Any,
) -> list[Arm]:
    """The baseline, and for every operation and strength its own arm and its controls.

    Args:
        operations: folders of operations, of different layers.
        shuffled: folders of operations trained on shuffled labels, of one or several seeds: controls at their layers.
        twins: folder `twins` of a sweep, for the kinds `dense`, `valence` and `constant`.
        alphas: strengths as α.
        kls: strengths as KL on neutral text, which make arms comparable.
        kinds: which of `KINDS`; `reseeded` is the baseline again with another seed, the null.
        rotations: random rotations, and permutations, of each write.
        together: all layers at once as well, where there are several.
        common: the provider's other arguments.

    Raises:
        FileNotFoundError: a folder without an operation.
        ValueError: no strength, two operations of one layer, an operation in the place of its control, or the reverse.
    """
    steering = ("units", "form", "positions", "direction_seed", "any_model")
    plain = {name: value for name, value in common.items() if name not in steering}
    arms = [Arm(BASELINE, BASELINE, arguments=plain, seed=seed)]
    if "reseeded" in kinds:
        arms.append(Arm("reseeded", "reseeded", arguments=plain, seed=seed + 1))
    operated, controls = _by_layer(operations, "none"), _by_layer(shuffled, "shuffled")
    if twice := [layer for layer, folders in operated.items() if len(folders) > 1]:
        one, two, *_ = operated[twice[0]]
        raise ValueError(f"{one} and {two} are both of layer {twice[0]}; give one")
    if operated and not (alphas or kls):
        raise ValueError("no strength; expected alphas or kls")
    layers: list[tuple[int, ...]] = [(layer,) for layer in operated]
    layers += [tuple(operated)] if together and len(operated) > 1 else []
    strengths = [("alpha", a, f"α{a:g}") for a in dict.fromkeys(alphas)]
    strengths += [("kl", kl, f"KL {kl:g}") for kl in dict.fromkeys(kls)]
    for strength, value, said in strengths:
        for own in layers:
            for kind in dict.fromkeys(kinds):
                for n, folders, arguments in _ways(kind, own, operated, controls, twins, rotations):
                    given = {**common, **arguments, "operation": ",".join(map(str, folders)), strength: value}
                    name = f"{kind}{f' {n + 1}' if n else ''} L{'+'.join(map(str, own))} {said}"
                    layer = own[0] if len(own) == 1 else None
                    how: dict[str, Any] = {"arguments": given, "seed": seed, strength: value}
                    arms.append(Arm(name, kind, layer, **how))
    return arms


def _ways(
    kind: str,
    layers: Sequence[int],
    operated: Mapping[int, Sequence[Path]],
    shuffled: Mapping[int, Sequence[Path]],
    twins: str | Path | None,
    rotations: int,
) -> Iterator[tuple[int, list[Path], dict[str, Any]]]:
    """The arms of one kind at these layers: number, folders of operations, and the provider's arguments."""
    own = [operated[layer][0] for layer in layers]
    if kind == "shuffled":
        for n in range(min(len(shuffled.get(layer, ())) for layer in layers)):
            yield n, [shuffled[layer][n] for layer in layers], {"arm": "operated"}
    elif kind in ("rotated", "permuted"):
        for n in range(rotations):
            yield n, own, {"arm": kind, "direction_seed": n}
    elif kind in LEARNT:
        yield 0, own, {"arm": kind, "twins": None if twins is None else str(twins)}
    elif kind != "reseeded":
        yield 0, own, {"arm": kind}


def _by_layer(folders: Sequence[str | Path], control: str) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for folder in map(Path, folders):
        file = folder / RECORD
        if not file.exists():
            raise FileNotFoundError(f"no {RECORD} in {folder}; expected what `sae-moral operate` writes")
        about = read_json(file)
        if not isinstance(about, dict) or type(layer := about.get("layer")) is not int:
            raise DataError("not the record of an operation; expected a JSON object with a layer", file=file)
        if about.get("control") != control:
            raise ValueError(f"{folder} is an operation with control {about.get('control')!r}; expected {control!r}")
        found.setdefault(layer, []).append(folder)
    return dict(sorted(found.items()))
