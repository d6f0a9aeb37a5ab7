"""How a model is steered: Inspect's model arguments as one checked value, and the steerings it stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_moral.errors import unknown
from sae_moral.io import checksum
from sae_moral.steering import Learnt, Matched, Steering, dense, permuted, random_direction, rotated, written
from sae_moral.surgery import Operation

LEARNT = ("dense", "valence", "constant")
"""Arms that are made of what was learnt on training texts (`sae_moral.steering.Learnt`)."""
ARMS = ("baseline", "operated", "rotated", "permuted", *LEARNT, "pretrained", "random")
RECORD = "surgery.json"


@dataclass(frozen=True)
class Configuration:
    """The model arguments of the provider (`-M name=value`).

    Attributes:
        operation: folder written by `Operation.save`, or a folder of such folders (then `layer` says which). Several,
            with commas between them, steer together.
        arm: `baseline` (nothing is steered), `operated` (the default with an operation), a twin of its write
            (`sae_moral.steering.twins`: `rotated`, `permuted`, `dense`, `valence`, `constant`), `pretrained` (the SAE
            before surgery in the paper's form: its whole reconstruction error), or `random` (a random direction that
            has, at every token, the norm of the operation's own term).
        twins: a file of the folder `twins` that a sweep wrote, or that folder; for `dense`, `valence` and `constant`.
        layer: the block the operation must belong to.
        alpha: strength; with an operation this or `kl` is needed.
        kl: strength, as KL(unsteered ‖ steered) on neutral text in nats per token; of all that steers together.
        units, form, positions: see `sae_moral.steering.Steering`; by default the first token, BOS, is not steered.
        direction_seed: of the random direction, rotation or permutation.
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
    twins: str | None = None
    layer: int | None = None
    alpha: float | None = None
    kl: float | None = None
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
        if arm != "baseline" and (self.operation is None or (self.alpha is None) == (self.kl is None)):
            raise ValueError(f"arm {arm!r} needs the model arguments operation=FOLDER, and alpha=NUMBER or kl=NUMBER")
        if self.operation is None and any(value is not None for value in (self.alpha, self.kl, self.layer)):
            raise ValueError("alpha=, kl= and layer= say how to steer with an operation; pass operation=FOLDER, too")
        if arm in LEARNT and self.twins is None:
            raise ValueError(f"arm {arm!r} needs twins=FILE: the folder `twins` of a sweep has them by layer")
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
        for later in ("revision", "kl"):  # so that answers of before there were these are found again
            if values[later] is None:
                del values[later]
        del values["twins"]  # what is read from it is described by its values
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
    if kind == "str" and isinstance(value, list):  # Inspect makes a list of what has commas in it
        return ",".join(map(str, value))
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


def load_operations(configuration: Configuration, device: Any) -> list[Operation]:
    """The operations a configuration names, on the model's device; none when nothing is steered.

    Raises:
        FileNotFoundError: no operation there.
        ValueError: several in a folder and no `layer`, none of that layer, or files that do not belong together.
    """
    if configuration.resolved_arm == "baseline" or configuration.operation is None:
        return []
    return [
        _load_operation(Path(one.strip()), configuration.layer, device) for one in configuration.operation.split(",")
    ]


def _load_operation(folder: Path, layer: int | None, device: Any) -> Operation:
    if (folder / RECORD).exists() or not folder.is_dir():
        found = [Operation.load(folder, device=device)]
    else:
        found = [Operation.load(record.parent, device=device) for record in sorted(folder.glob(f"*/{RECORD}"))]
    layers = sorted(operation.layer for operation in found)
    fitting = [operation for operation in found if layer in (None, operation.layer)]
    if not found:
        raise FileNotFoundError(f"no {RECORD} in {folder} or in its folders; expected what `sae-moral operate` writes")
    if len(fitting) != 1:
        wanted = "say which with layer=" if layer is None else f"layer={layer} was given"
        raise ValueError(f"{folder} has operations of layers {', '.join(map(str, layers))}; {wanted}")
    return fitting[0]


def describe_operations(operations: Sequence[Operation]) -> Any:
    """Which operations these are: name, the SAE before and after, and the latents that were operated on; None without
    any, and of a single one not a list."""
    found = [
        {
            "name": one.name,
            **{"before": one.record.sha256["before"], "sha256": one.sae.sha256},
            "latents": checksum(one.latents.tolist()),
        }
        for one in operations
    ]
    return found if len(found) > 1 else found[0] if found else None


def steerings_of(configuration: Configuration, operations: Sequence[Operation], d_model: int) -> list[Steering]:
    """What the configuration adds to the residual stream, with α = 1 where the strength is a KL; nothing for the
    baseline.

    Raises:
        FileNotFoundError: no file of twins.
        ValueError: an operation that writes nothing, where its twin is asked for.
    """
    alpha = 1.0 if configuration.alpha is None else configuration.alpha
    how = {"units": configuration.units, "positions": configuration.positions}
    return [
        Steering(what, alpha, form=form, **how)
        for operation in operations
        for what, form in [_steered(configuration, operation, d_model)]
    ]


def _steered(configuration: Configuration, operation: Operation, d_model: int) -> tuple[Any, str]:
    """What is added, and in which form."""
    arm, seed = configuration.resolved_arm, configuration.direction_seed
    if arm == "pretrained":
        return operation.original(), "paper"
    if arm == "random":
        return Matched(random_direction(d_model, operation.layer, seed), operation), configuration.form
    if arm in ("rotated", "permuted"):
        return (rotated if arm == "rotated" else permuted)(written(operation), seed), "edit"
    if arm in LEARNT:
        file = Path(configuration.twins or "")
        learnt = Learnt.load(file / f"L{operation.layer}.safetensors" if file.is_dir() else file)
        if learnt.layer != operation.layer:
            raise ValueError(f"{file} is of layer {learnt.layer} and the operation of {operation.layer}; expected one")
        return dense(operation, learnt.reader) if arm == "dense" else getattr(learnt, arm), "edit"
    return operation, configuration.form
