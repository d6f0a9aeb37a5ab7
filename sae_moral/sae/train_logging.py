"""The course of a training in W&B or Trackio, under the names that SAELens gives it; off unless asked for.

SAELens' trainer logs losses, L0, dead latents, coefficients and histograms; beside them stand our own looks at both
sides (`train/explained_variance`, `held_out/explained_variance`, …), with what is measured on the saved SAE last. What
is logged shapes no weight and no key.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_moral.errors import in_one_line, unknown

if TYPE_CHECKING:
    from sae_moral.sae.train_config import SAELensConfig

BACKENDS = ("wandb", "trackio")
Log = Callable[[Mapping[str, Any], int], None]
"""Takes values by name, and the step they are of."""


@dataclass(frozen=True)
class LogSettings:
    """Where a training is logged; one run per layer, which a training that is taken up goes on with.

    Attributes:
        to: `wandb` or `trackio`.
        project: SAELens' own by default.
        entity: of W&B: the user or team.
        every: steps between two entries.
        weights: keep the trained SAE there too, as an artifact.
    """

    to: str
    project: str = "sae_lens_training"
    entity: str | None = None
    every: int = 10
    weights: bool = False

    def __post_init__(self) -> None:
        """Raises:
        ValueError: an unknown name, or no steps between entries.
        ModuleNotFoundError: the package is not installed.
        """
        if self.to not in BACKENDS:
            raise unknown("log", self.to, BACKENDS)
        if self.every < 1:
            raise ValueError(f"every is {self.every}; expected at least one step between two entries")
        if self.entity is not None and self.to != "wandb":
            raise ValueError(f"entity {self.entity!r} is of W&B, and the log is {self.to}; leave it out")
        if not hasattr(self.backend(), "Artifact") and self.weights:
            problem = f"this version of {self.to} keeps no artifacts"
            raise ValueError(f"{problem}; leave weights out, or run: pip install -U {self.to}")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Of all that has one."""
        return {one.name: one.default for one in dataclasses.fields(cls) if one.name != "to"}

    def backend(self) -> Any:
        """The package.

        Raises:
            ModuleNotFoundError: it is not installed; says what to install.
        """
        try:
            return importlib.import_module(self.to)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the log {self.to!r} needs a package that is not installed; run: pip install {self.to}", name=self.to
            ) from error


def log_settings(log: LogSettings | str | None) -> LogSettings | None:
    """Of a name; None stays None."""
    return LogSettings(log) if isinstance(log, str) else log


def with_logger(config: SAELensConfig, log: LogSettings | None) -> SAELensConfig:
    """The configuration with SAELens' logger switched on."""
    from sae_lens.config import LoggingConfig

    if log is None:
        return config
    logger = LoggingConfig(
        log_to_wandb=True,
        log_weights_to_wandb=False,
        wandb_project=log.project,
        wandb_entity=log.entity,
        wandb_log_frequency=log.every,
    )
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, logger=logger))


@contextmanager
def logged_run(log: LogSettings | None, name: str, key: str, about: Mapping[str, Any]) -> Iterator[Log]:
    """Within the context, a run of the log, to which SAELens' trainer writes as well; a function that writes to it.

    Args:
        name: of the run.
        key: of all that shapes the training; the run's id, so that a training that is taken up goes on in it.
        about: the run's configuration.

    Raises:
        RuntimeError: the run cannot be started (not logged in, no network).
    """
    if log is None:
        yield lambda values, step: None
        return
    module = log.backend()
    options = {"project": log.project, "config": dict(about), "resume": "allow"}
    of_wandb = {"name": name, "id": key[:32], "entity": log.entity}
    options |= of_wandb if log.to == "wandb" else {"name": f"{name}-{key[:8]}"}
    try:
        module.init(**options)
    except Exception as error:  # each package has errors of its own, for no login, no network, a wrong project
        hint = "log in with `wandb login`, or set WANDB_MODE=offline" if log.to == "wandb" else "see trackio.init"
        raise RuntimeError(f"{log.to} does not start a run: {in_one_line(error)}; {hint}") from error
    names = _Names(module)
    end: dict[str, int] = {"exit_code": 1} if log.to == "wandb" else {}
    try:
        with in_trainer("wandb", names):
            yield lambda values, step: names.log(values, step=step)
        end = {}
    finally:
        module.finish(**end)


@contextmanager
def in_trainer(name: str, thing: Any) -> Iterator[None]:
    """Within the context, something else goes by a name of the module of SAELens' trainer."""
    from sae_lens.training import sae_trainer

    before = getattr(sae_trainer, name)
    setattr(sae_trainer, name, thing)
    try:
        yield
    finally:
        setattr(sae_trainer, name, before)


class _Names:
    """What SAELens' trainer uses of the package `wandb`, of a package that may have less of it."""

    def __init__(self, module: Any) -> None:
        self.module = module
        # Early versions of Trackio have no histograms; `log` leaves out what is None.
        self.Histogram = getattr(module, "Histogram", lambda values: None)

    def log(self, values: Mapping[str, Any], *, step: int) -> None:
        self.module.log({name: value for name, value in values.items() if value is not None}, step=step)


def keep_weights(log: LogSettings | None, folder: Path, name: str) -> None:
    """The files of a trained SAE as an artifact of the run that is active, named as SAELens names it."""
    if log is None or not log.weights:
        return
    module = log.backend()
    artifact = module.Artifact(name.replace("/", "__"), type="model")
    for path in sorted(folder.iterdir()):
        artifact.add_file(str(path))
    module.log_artifact(artifact)
