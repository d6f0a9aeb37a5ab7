"""What an operation says of itself: the types of `surgery.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from typing_extensions import TypedDict

from sae_moral.shown import shown


class Change(TypedDict):
    """A statistic of a group before and after surgery, the change with its interval, and n texts; None where
    undefined."""

    statistic: str
    group: str
    before: float | None
    after: float | None
    change: float | None
    ci_low: float | None
    ci_high: float | None
    n: int


class Epoch(TypedDict):
    """The terms and their weighted sum, `total`: means over the batches of an epoch, and of the validation part. Epoch
    0 is before training."""

    epoch: int
    train: dict[str, float] | None
    validation: dict[str, float]


class Stopped(TypedDict):
    """When and why training stopped."""

    kept_epoch: int
    epochs: int
    reason: str


class Written(TypedDict):
    """What was added to decoder rows: the weights of the writes, the size s (see `write`), the longest row as a
    multiple of its length before surgery, the length that each row gained, and the rank of it all."""

    writes: dict[str, float]
    size: float
    longest: float
    gained: list[float]
    rank: int


class Weights(TypedDict):
    """How many weights the SAE has, how many could change, and how many did."""

    total: int
    trainable: int
    changed: int
    share_changed: float


class Hashes(TypedDict):
    """The SAE's hash before and after surgery."""

    before: str
    after: str


@shown()
@dataclass(frozen=True, kw_only=True)
class SurgeryRecord:
    """What an operation says of itself. An operation made by hand has a source and hashes only.

    Attributes:
        source: what the SAE was called before.
        sha256: its hashes.
        control: `none`, or what the operation is compared with.
        settings, seed: what shaped it, with the data and the capture.
        weights: how many there are, could change and did.
        contrasted: pairs of dimensions whose poles are contrasted.
        scale, scale_after: size of each latent before and after surgery; they differ for opened ones alone.
        opened: latents that became dense readers (`read`).
        latents_found: how the latents were found.
        parts: scenarios by part.
        learnt_from: `digests` of the texts it was trained on or stopped by.
        stopped, history: of the training; None and empty without one.
        written: what decoder rows gained after it; None where nothing was written.
        table: before, after, and the change, on the third part.
        data, capture, sae, versions, seconds: provenance.
    """

    source: str
    sha256: Hashes
    control: str = "none"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    weights: Weights = field(default_factory=lambda: Weights(total=0, trainable=0, changed=0, share_changed=0.0))
    contrasted: list[str] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    scale_after: list[float] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    latents_found: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    learnt_from: list[str] = field(default_factory=list)
    stopped: Stopped | None = None
    written: Written | None = None
    history: list[Epoch] = field(default_factory=list)
    table: list[Change] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    capture: dict[str, Any] = field(default_factory=dict)
    sae: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
