"""How a model is steered: Inspect's model arguments as one checked value, and the steerings it stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_moral.errors import unknown
from sae_moral.io import checksum
from sae_moral.steering import Direction, Matched, Steering, random_direction
from sae_moral.surgery import Operation

ARMS = ("baseline", "operated", "pretrained", "random")
RECORD = "surgery.json"


@dataclass(frozen=True)
class Configuration:
    """The model arguments of the provider (`-M name=value`).

    Attributes:
        operation: folder written by `Operation.save`, or a folder of such folders (then `layer` says which).
        arm: `baseline` (nothing is steered), `operated` (the default with an operation), `pretrained` (the SAE before
            surgery in the paper's form: its whole reconstruction error), or `random` (a random direction that has, at
            every token, the norm of the operation's own term).
        layer: the block the operation must belong to.
        alpha: strength; needed with an operation.
        units, form, positions: see `sae_moral.steering.Steering`; by default the first token, BOS, is not steered.
        direction_seed: of the random direction.
        any_model: accept an SAE of a model with another name.
        dtype: of the model's weights; the SAE keeps its own.
        revision: branch, tag or commit of a hub name.
        device: by default CUDA when there is one.
        batch_size: requests that are generated together.
        thinking: for chat templates that know `enable_thinking`.
        ledger: a .jsonl file of what was answered, so that nothing is generated twice.
    """

    operation: str | None = None
    arm: str | None = None
    layer: int | None = None
    alpha: float | None = None
    units: str = "alpha"
    form: str = "edit"
    positions: str = Steering.positions
    direction_seed: int = 0
    any_model: bool = False
    dtype: str = "float32"
    revision: str | None = None
    device: str | None = None
    batch_size: int = 8
    thinking: bool = False
    ledger: str | None = None

    def __post_init__(self) -> None:
        arm = self.resolved_arm
        if arm not in ARMS:
            raise unknown("arm", arm, ARMS)
        if arm != "baseline" and (self.operation is None or self.alpha is None):
            raise ValueError(f"arm {arm!r} needs the model arguments operation=FOLDER and alpha=NUMBER")
        if self.operation is None and (self.alpha is not None or self.layer is not None):
            raise ValueError("alpha= and layer= say how to steer with an operation; pass operation=FOLDER, too")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; expected at least 1")

    @property
    def resolved_arm(self) -> str:
        """The arm, `operated` by default when there is an operation."""
        return self.arm or ("operated" if self.operation else "baseline")

    def describe(self) -> dict[str, Any]:
        """What shapes an answer, as JSON values: not the device, the batches or the ledger."""
        values = dataclasses.asdict(self) | {"arm": self.resolved_arm}
        steered = ("operation", "layer", "alpha", "units", "form", "positions", "direction_seed", "any_model")
        if self.revision is None:  # so that answers of before there were revisions are found again
            del values["revision"]
        gone = ("device", "batch_size", "ledger", *(steered if self.resolved_arm == "baseline" else ()))
        return {name: value for name, value in values.items() if name not in gone}


def configuration_of(arguments: Mapping[str, Any]) -> Configuration:
    """Check and convert model arguments, which Inspect reads from the command line as YAML.

    Raises:
        ValueError: an unknown name, or a value of the wrong kind.
    """
    fields = {field.name: field for field in dataclasses.fields(Configuration)}
    given = {}
    for name, value in arguments.items():
        if name not in fields:
            raise unknown("model argument", name, fields)
        kinds = str(fields[name].type).split(" | ")
        given[name] = value if value is None and "None" in kinds else _convert(name, value, kinds[0])
    return Configuration(**given)


def _convert(name: str, value: Any, kind: str) -> Any:
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "str" and isinstance(value, str | Path):
        return str(value)
    if kind == "float" and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-1 as a text
        except ValueError:
            pass
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"model argument {name}={value!r}; expected {'true or false' if kind == 'bool' else kind}")


def load_operation(configuration: Configuration, device: Any) -> Operation | None:
    """The operation a configuration names, on the model's device; None when nothing is steered.

    Raises:
        FileNotFoundError: no operation there.
        ValueError: several and no `layer`, none of that layer, or files that do not belong together.
    """
    if configuration.resolved_arm == "baseline" or configuration.operation is None:
        return None
    folder = Path(configuration.operation)
    if (folder / RECORD).exists() or not folder.is_dir():
        found = [Operation.load(folder, device=device)]
    else:
        found = [Operation.load(record.parent, device=device) for record in sorted(folder.glob(f"*/{RECORD}"))]
    layers = sorted(operation.layer for operation in found)
    fitting = [operation for operation in found if configuration.layer in (None, operation.layer)]
    if not found:
        raise FileNotFoundError(f"no {RECORD} in {folder} or in its folders; expected what `sae-moral operate` writes")
    if len(fitting) != 1:
        wanted = "say which with layer=" if configuration.layer is None else f"layer={configuration.layer} was given"
        raise ValueError(f"{folder} has operations of layers {', '.join(map(str, layers))}; {wanted}")
    return fitting[0]


def describe_operation(operation: Operation | None) -> dict[str, Any] | None:
    """Which operation it is: its name, the SAE before and after, and the latents that were operated on."""
    if operation is None:
        return None
    hashes = {"before": operation.record.sha256["before"], "sha256": operation.sae.sha256}
    return {"name": operation.name, **hashes, "latents": checksum(operation.latents.tolist())}


def steerings_of(configuration: Configuration, operation: Operation | None, d_model: int) -> list[Steering]:
    """What the configuration adds to the residual stream; nothing for the baseline."""
    if operation is None or configuration.alpha is None:
        return []
    what: Any = operation
    form = configuration.form
    if configuration.resolved_arm == "pretrained":
        what, form = operation.original(), "paper"
    elif configuration.resolved_arm == "random":
        drawn: Direction = random_direction(d_model, operation.layer, configuration.direction_seed)
        what = Matched(drawn, operation)
    return [
        Steering(what, configuration.alpha, units=configuration.units, form=form, positions=configuration.positions)
    ]
