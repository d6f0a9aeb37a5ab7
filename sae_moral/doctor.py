"""`examine`: what this package finds on a machine, and what of it stands in the way.

Nothing is loaded, downloaded or written, and nothing is asked of the network. Libraries are imported, since an
installation that does not fit together often shows in no other way. What it does not prove: that a model fits into the
memory, that the hub answers, or that a token opens a gated model.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from sae_moral import __version__
from sae_moral.errors import in_one_line
from sae_moral.io import cache_folder, existing, is_offline, jsonable
from sae_moral.registry import Registry
from sae_moral.shown import shown
from sae_moral.tables import MISSING, Table, text_table

OURS = "sae-moral"
IMPORTED = ("torch", "transformers", "transformer_lens", "sae_lens", "datasets")
"""What nothing works without, by the name that is imported; in this order, since each of them needs those before it."""
OPTIONAL = (
    *"accelerate bitsandbytes inspect-ai nnsight peft ray sae-moral-inspect sae-moral-ray".split(),
    *"shtab trackio vllm wandb".split(),
)
SHARED = frozenset(("sae-moral", "torch", "transformers", "transformer-lens", "sae-lens", "numpy", "datasets"))
"""Packages whose versions other tools of the field pin, too."""
GROUPS = ("sae_moral.metrics", "sae_moral.sources")
HUB_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SAE_MORAL_OFFLINE", "HF_HOME")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Linux's control groups, version 2: microseconds of CPU per period of microseconds."""
LITTLE = 2 * 2**30
"""Bytes; the smallest bundled model takes 0.6 GB once it is converted."""


@shown()
@dataclass(frozen=True)
class Problem:
    """What is wrong, what to do about it, and whether anything can be measured before that is done."""

    what: str
    do: str
    blocks: bool = False


@shown(facts=lambda found: {"blocked": found.blocked}, tables=lambda found: [found.table()])
@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        versions: of Python, of this package, of what it depends on, and of optional packages that are installed.
        device: cores, threads and memory of the CPU; the CUDA that torch is built for, and the GPUs.
        hub: whether it is asked, the variables that decide so, and whether there is a token (never the token).
        caches: a folder's place, its size and the room left on its disk.
        problems: those that block first.
    """

    versions: Mapping[str, str]
    device: Mapping[str, Any]
    hub: Mapping[str, Any]
    caches: Mapping[str, Mapping[str, Any]]
    problems: tuple[Problem, ...]

    @property
    def blocked(self) -> bool:
        """Whether nothing can be measured before a problem is solved."""
        return any(one.blocks for one in self.problems)

    def table(self) -> Table:
        """What was found, one fact a row."""
        parts = {"device": self.device, "hub": self.hub, "version": self.versions}
        rows = [[part, name, _words(value)] for part, facts in parts.items() for name, value in facts.items()]
        for name, one in self.caches.items():
            rows.append(["cache", name, f"{one['folder']} ({one['size_gib']} GiB; {one['free_gib']} GiB free)"])
        return Table(["part", "name", "found"], rows, keys=2)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, and `blocked`."""
        return {**jsonable(dataclasses.asdict(self)), "blocked": self.blocked}

    def summary(self) -> str:
        """The table for the terminal, then each problem with what to do about it."""
        made = self.table()
        said = [f"{'blocks' if one.blocks else 'note'}: {one.what}\n  do: {one.do}" for one in self.problems]
        last = f"{sum(one.blocks for one in self.problems)} of these block" if self.blocked else "nothing blocks"
        return "\n\n".join([text_table([made.header, *made.rows]), *said, last])


def examine() -> Examination:
    """Look at the installation, the device, the hub's settings and the caches; a few seconds, mostly of imports."""
    broken = list(_imports())
    device, hub, caches = _device(), _hub(), _caches()
    problems = [*_requirements(), *broken, *_entry_points(), *_other_packages()]
    problems += [*_of_device(device), *_of_hub(hub), *_of_caches(caches)]
    return Examination(_versions(), device, hub, caches, tuple(sorted(problems, key=lambda one: not one.blocks)))


# What is installed


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _required(name: str) -> list[Requirement]:
    """What a package needs here, without its extras."""
    found = []
    for line in importlib.metadata.requires(name) or []:
        try:
            one = Requirement(line)
        except InvalidRequirement:  # of a package that is older than the standard
            continue
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            found.append(one)
    return found


def _versions() -> dict[str, str]:
    names = [one.name for one in _required(OURS)] if _version(OURS) else []
    found = {name: _version(name) for name in (*names, *OPTIONAL)}
    return {
        "python": platform.python_version(),
        OURS: __version__,
        **{name: version for name, version in found.items() if version is not None},
    }


def _requirements() -> Iterator[Problem]:
    """Python and every direct dependency, against what this package declares."""
    installed = _version(OURS)
    if installed is None:
        yield Problem("sae-moral is imported but not installed, so it has no metrics and no sources", _AGAIN, True)
        return
    if installed != __version__:
        what = f"the installed metadata is of sae-moral {installed}, the code of {__version__}: names may be missing"
        yield Problem(what, _AGAIN)
    python = importlib.metadata.metadata(OURS)["Requires-Python"]
    if not SpecifierSet(python).contains(platform.python_version(), prereleases=True):
        yield Problem(f"Python {platform.python_version()}; expected {python}", "make a new environment with it", True)
    for one in _required(OURS):
        if problem := _unmet(one):
            yield Problem(f"{problem}; sae-moral needs {one}", f"pip install {str(one)!r}", True)


_AGAIN = "pip install sae-moral again (of a checkout: pip install -e .)"


def _unmet(one: Requirement) -> str | None:
    version = _version(one.name)
    if version is None:
        return f"{one.name} is not installed"
    return None if one.specifier.contains(version, prereleases=True) else f"{one.name} {version} is installed"


def _other_packages() -> Iterator[Problem]:
    """Packages that pin another version of what this one needs: steering-vectors pins transformers below 5, repeng and
    sae-bench pin NumPy below 2, TransformerLens 4 does not go with SAELens."""
    ours = {canonicalize_name(one.name) for one in _required(OURS)} if _version(OURS) else set()
    names = {canonicalize_name(name) for one in importlib.metadata.distributions() if (name := one.metadata["Name"])}
    for name in sorted(names - {OURS}):
        for one in _required(name):
            if canonicalize_name(one.name) in SHARED and (problem := _unmet(one)):
                what, do = f"{name} needs {one}, and {problem}", "an environment of its own, or uninstall it"
                # What this package needs has to run; another tool's pin is that tool's trouble.
                yield Problem(what, f"give {name} {do}", blocks=name in ours)


def _imports() -> Iterator[Problem]:
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken installation raises
            again = f"pip install --force-reinstall {name.replace('_', '-')}, with versions that go together"
            yield Problem(f"{name} cannot be imported: {in_one_line(error, 300)}", again, True)


def _entry_points() -> Iterator[Problem]:
    """Metrics and sources that packages declare: no name twice, each of them to be had."""
    for group in GROUPS:
        registry: Registry[Any] = Registry(group.rpartition(".")[2], group)
        try:
            declared = registry.declared
        except ValueError as error:
            yield Problem(str(error), "uninstall one of the packages", True)
            continue
        for name, entry in declared.items():
            try:
                entry.load()
            except Exception as error:  # a plugin's own
                package = entry.dist.name if entry.dist else entry.value
                what = f"{name!r} of {group} ({package}) does not load: {in_one_line(error, 300)}"
                yield Problem(what, f"repair or uninstall {package}; every diagnosis asks for all metrics", True)


# The machine


def _gib(size: float) -> float:
    return round(size / 2**30, 1)


def _cores() -> int:
    """Those that this process may use: a container's quota does not show in the number of cores that libraries see."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text(encoding="utf8").split()
        return min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control groups, or no quota ("max")
        return cores


def _device() -> dict[str, Any]:
    found: dict[str, Any] = {"cores": _cores(), "threads": None, "memory_gib": None}
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found["memory_gib"] = _gib(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        import torch
    except Exception:  # told by `_imports`
        return found
    found |= {"threads": torch.get_num_threads(), "torch_cuda": torch.version.cuda, "gpus": []}
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            about = {"name": torch.cuda.get_device_name(i), "memory_gib": _gib(total), "free_gib": _gib(free)}
            found["gpus"].append({**about, "bfloat16": torch.cuda.is_bf16_supported()})
    found["mps"] = torch.backends.mps.is_available()
    return found


def _of_device(device: Mapping[str, Any]) -> Iterator[Problem]:
    threads, cores = device["threads"], device["cores"]
    if threads is not None and threads > cores:
        what = f"torch uses {threads} threads on {cores} cores; they wait for each other"
        yield Problem(what, f"OMP_NUM_THREADS={cores}")
    if "gpus" not in device or device["gpus"]:
        return
    if device["torch_cuda"] is not None:
        what = f"torch is built for CUDA {device['torch_cuda']}, but finds no GPU: everything runs on the CPU"
        yield Problem(what, "look at nvidia-smi and CUDA_VISIBLE_DEVICES; without a GPU all is well")
    elif Path("/dev/nvidia0").exists():
        what = "there is an NVIDIA GPU, but torch is a build for the CPU"
        yield Problem(what, "install the build of torch for your CUDA (pytorch.org/get-started)")


# The hub and the caches


def _hub() -> dict[str, Any]:
    try:
        from huggingface_hub import constants, get_token
    except Exception:  # told by `_imports`, as transformers needs it
        return {"online": None, "token": None}
    variables = {name: os.environ[name] for name in HUB_VARIABLES if name in os.environ}
    return {"online": not constants.HF_HUB_OFFLINE, "token": "present" if get_token() else "none", **variables}


def _of_hub(hub: Mapping[str, Any]) -> Iterator[Problem]:
    if hub["online"] and is_offline():
        what = "SAE_MORAL_OFFLINE keeps this package from downloading, not transformers and SAELens"
        yield Problem(what, "set HF_HUB_OFFLINE=1 as well")


def _caches() -> dict[str, dict[str, Any]]:
    places = {"sae-moral": cache_folder()}
    try:
        from huggingface_hub import constants

        places["hub"] = Path(constants.HF_HUB_CACHE)
    except Exception:  # told by `_imports`
        pass
    found = {}
    for name, folder in places.items():
        free = shutil.disk_usage(existing(folder)).free
        found[name] = {"folder": str(folder), "size_gib": _gib(_size(folder)), "free_gib": _gib(free)}
    return found


def _size(folder: Path) -> int:
    """Bytes of the files below, links not followed; what may not be read counts nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total


def _of_caches(caches: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    for name, one in caches.items():
        folder, variable = Path(one["folder"]), "SAE_MORAL_CACHE" if name == OURS else "HF_HOME"
        there = existing(folder)
        if not there.is_dir() or not os.access(there, os.W_OK):
            what = f"the cache {folder} cannot be written ({there} is no folder, or belongs to someone else)"
            yield Problem(what, f"set {variable} to a folder of yours", blocks=name == OURS)
        elif one["free_gib"] < _gib(LITTLE):
            yield Problem(f"{one['free_gib']} GiB are left for the cache {folder}", f"make room, or set {variable}")


def _words(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_words, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(one)}" for key, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return MISSING if value is None else str(value)
