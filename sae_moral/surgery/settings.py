"""Everything that shapes a surgery, under three names: `default`, `paper` (the text of arXiv 2603.15615), and
`released` (where the code published with it does otherwise)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sae_moral.errors import unknown
from sae_moral.sae.moral_latents import RULES
from sae_moral.surgery.terms import TERMS

FORMS, SCHEDULES = ("relative", "paper", "released"), ("constant", "one-cycle")


@dataclass(frozen=True)
class SurgerySettings:
    """What shapes a surgery; why these values: docs/design/surgery.md.

    Attributes:
        name: what the record calls them.
        reconstruction, sparsity, alignment, polarity, prototype, monosemantic, reading: weights of the `TERMS`.
        polarity_margin, prototype_margin: in the units of the activations.
        form: `relative` (activations in units of each latent's size, reconstruction in units of the error before
            surgery, polarity on the foundation's own items), `paper` (all of it absolute, polarity on all items) or
            `released` (as `paper`; alignment of items with a typicality above 0, polarity of those above 0.3,
            monosemantic activations squared).
        leak: share of a gradient that reaches a latent where it is silent; 0: none, as of a ReLU. It changes no value.
        keep_norm: decoder rows keep their lengths. Otherwise a latent could grow its activations at no cost, shrinking
            its row as much, and margins would be met without a change to what is written back.
        rule, per_dimension: which latents are taken from a `MoralLatents`: its rule, and at most so many per dimension.
        one_pole: a latent found for virtues and for vices counts only for the pole that it correlates with more.
        outliers: vectors further from the mean than so many median distances do not count in the reconstruction, as in
            the SAE's training (`sae.train_input.within`); None: all count.
        opened: in every dimension so many latents become dense readers before training (`read`); 0: none, as where
            latents compete.
        open_share: share of the tolerance that this may use up.
        lr: Adam's step; under `relative` in units of each latent's size, for a weight of its encoder over the standard
            deviation of the input dimension, for one of its decoder of the row's root mean square.
        schedule: of the step: `constant`, or `one-cycle` (Smith & Topin 2018) over all epochs.
        weight_decay: of the trained weights, decoupled (Loshchilov & Hutter 2019).
        clip: largest norm of the gradient; None: any.
        by_typicality: prompts are drawn with replacement, by their typicality and a tenth, so that neutral ones come,
            too; otherwise each once per epoch.
        batch: distinct prompts per step.
        epochs: at most so many passes over the training prompts.
        patience: epochs without a lower validation loss before training stops.
        tolerance: the step that is kept has a validation reconstruction error of at most 1 + tolerance times the one
            before surgery; None: any.
        shrink: an epoch that leaves the tolerance is taken back towards the start until it is within, by one factor for
            all steps; otherwise it is not kept.
        read_share: share of the tolerance that readers may use up where something is written afterwards.
        row_cap: no decoder row grows beyond so many times its length before surgery.
        early_stop: False: all epochs are run and the last is kept, whatever the validation part says; for a control
            that is to train exactly as long as what it is compared with.
    """

    name: str = "default"
    reconstruction: float = TERMS["reconstruction"].weight
    sparsity: float = TERMS["sparsity"].weight
    alignment: float = TERMS["alignment"].weight
    polarity: float = TERMS["polarity"].weight
    prototype: float = TERMS["prototype"].weight
    monosemantic: float = TERMS["monosemantic"].weight
    reading: float = TERMS["reading"].weight
    polarity_margin: float = 0.5
    prototype_margin: float = 1.0
    form: str = "relative"
    leak: float = 0.1
    keep_norm: bool = True
    rule: str = "audited"
    per_dimension: int | None = 8
    one_pole: bool = True
    outliers: float | None = 10.0
    opened: int = 1
    open_share: float = 0.25
    lr: float = 0.002
    schedule: str = "constant"
    weight_decay: float = 0.0
    clip: float | None = None
    by_typicality: bool = False
    batch: int = 256
    epochs: int = 50
    patience: int = 5
    tolerance: float | None = 0.02
    shrink: bool = True
    read_share: float = 0.75
    row_cap: float = 2.0
    early_stop: bool = True

    def __post_init__(self) -> None:
        """Raises:
        ValueError: an unknown name, or a number out of range.
        """
        if self.form not in FORMS:
            raise unknown("form", self.form, FORMS)
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip is {self.clip}; expected a number above 0, or None")
        if self.rule not in RULES:
            raise unknown("rule", self.rule, RULES)
        for name in (*TERMS, "polarity_margin", "prototype_margin", "leak", "epochs", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number of at least 0")
        if self.opened < 0 or not 0 < self.open_share < 1:
            raise ValueError(
                f"opened {self.opened} and open_share {self.open_share}; expected 0 or more, 0 < share < 1"
            )
        if not 0 <= self.read_share < 1 or not self.row_cap > 0:
            raise ValueError(
                f"read_share {self.read_share} and row_cap {self.row_cap}; expected 0 ≤ share < 1, cap > 0"
            )
        for name in ("lr", "batch", "patience"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number above 0")

    @property
    def relative(self) -> bool:
        """Whether activations and errors are in units of what they were before surgery."""
        return self.form == "relative"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)


DEFAULT = SurgerySettings()
PAPER = dataclasses.replace(
    DEFAULT,
    name="paper",
    **{name: term.paper for name, term in TERMS.items()},
    prototype_margin=0.1,
    form="paper",
    leak=0.0,
    rule="paper",
    per_dimension=20,
    one_pole=False,
    opened=0,
    outliers=None,
    shrink=False,
    lr=1e-4,
    batch=4096,
    tolerance=None,
)
"""Its weights and margins, and its SAE's optimiser; what it does not state (epochs, patience) is as in `DEFAULT`."""
RELEASED = dataclasses.replace(
    PAPER,
    name="released",
    form="released",
    rule="released",
    per_dimension=None,
    batch=512,
    schedule="one-cycle",
    weight_decay=0.01,
    clip=1.0,
    by_typicality=True,
    epochs=50,
    patience=10,
)
"""Where the released code says otherwise than the text. How it weighs neutral items is not known."""
SETTINGS = {"default": DEFAULT, "paper": PAPER, "released": RELEASED}


def get_settings(settings: str | SurgerySettings, **changes: Any) -> SurgerySettings:
    """The settings of that name, or the given ones, with some fields changed.

    Raises:
        ValueError: an unknown name or field, or a number out of range.
    """
    if isinstance(settings, str):
        if settings not in SETTINGS:
            raise unknown("settings", settings, SETTINGS)
        settings = SETTINGS[settings]
    fields = [field.name for field in dataclasses.fields(settings)]
    for name in changes:
        if name not in fields:
            raise unknown("setting of a surgery", name, fields)
    return dataclasses.replace(settings, **changes)
