"""Options of a command line that are read from the source of the functions and settings they stand for.

Names, types, defaults, choices and help come from parameters, annotations and docstrings, so that each is written once.
The source is parsed, not imported: `--help` needs neither torch nor a model. (Libraries that do this for argparse —
cyclopts, tyro, jsonargparse — import the function and evaluate its annotations, which here are of torch and SAELens.)
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from sae_moral.errors import unknown

CHOICES = {
    "protocol": "protocol:PROTOCOLS",
    "study": "planning.study:STUDIES",
    "extra_columns": "data.table:ExtraColumns",
    "match": "diagnosis:MATCHES",
    "granularity": "capture.readers:GRANULARITIES",
    "normalise": "sae.train_input:NORMALISATIONS",
    "init": "sae.train_config:INITS",
    "control": "surgery.evaluate:CONTROLS",
    "settings": "surgery.settings:SETTINGS",
    "rule": "sae.moral_latents:RULES",
    "units": "steering.steering:UNITS",
    "positions": "steering.steering:OF_PROMPTS",
}
"""Where the values of a parameter are written down."""
_SWITCH = argparse.BooleanOptionalAction
UNKNOWN = argparse.SUPPRESS
"""The default of a parameter that has none, or one that only a run can tell; the option is then left out."""


class Parameter(NamedTuple):
    """A parameter of a function or a field of a dataclass: members of its annotation's union, its default (`UNKNOWN`),
    and what its docstring says."""

    types: tuple[str, ...]
    default: Any
    help: str


@cache
def parameters(where: str) -> dict[str, Parameter]:
    """The parameters of `module:function` or the fields of `module:class`, read from source."""
    module, _, name = where.partition(":")
    node = next(
        one for one in _tree(module).body if isinstance(one, ast.FunctionDef | ast.ClassDef) and one.name == name
    )
    if isinstance(node, ast.FunctionDef):
        positional = [*node.args.posonlyargs, *node.args.args]
        defaults = [*[None] * (len(positional) - len(node.args.defaults)), *node.args.defaults, *node.args.kw_defaults]
        arguments = [*positional, *node.args.kwonlyargs]
        found = [(one.arg, one.annotation, value) for one, value in zip(arguments, defaults, strict=True)]
    else:
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
        found = [(ast.unparse(one.target), one.annotation, one.value) for one in fields]
    said = _descriptions(ast.get_docstring(node) or "")
    return {
        name: Parameter(
            tuple(_members(annotation)), UNKNOWN if value is None else constant(value, module), said.get(name, "")
        )
        for name, annotation, value in found
    }


def constant(node: ast.expr, module: str) -> Any:
    """The value of literals and of names that modules of ours assign; of a mapping its keys, of a `Literal` its values;
    else `UNKNOWN`."""
    match node:
        case ast.Name(id=name):
            return named(name, module)
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            home = _home(owner, module)
            return UNKNOWN if home is None else parameters(f"{home}:{owner}")[name].default
        case ast.Dict(keys=keys):
            return tuple(constant(key, module) for key in keys if key is not None)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=items)) | ast.Tuple(elts=items):
            return tuple(constant(item, module) for item in items)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


@cache
def _tree(module: str) -> ast.Module:
    path = Path(__file__).parents[1].joinpath(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf8"))


def named(name: str, module: str) -> Any:
    """The value that a module of ours gives a name, as `constant` knows it."""
    for target, value in _assignments(module):
        if ast.unparse(target) == name:
            return constant(value, module)
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, of_one in zip(target.elts, value.elts, strict=True):
                if ast.unparse(one) == name:
                    return constant(of_one, module)
    home = _home(name, module)
    return UNKNOWN if home is None or home == module else named(name, home)


def _assignments(module: str) -> Iterator[tuple[ast.expr, ast.expr]]:
    for node in _tree(module).body:
        if isinstance(node, ast.Assign):
            yield from ((target, node.value) for target in node.targets)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield node.target, node.value


def _home(name: str, module: str) -> str | None:
    """The module of ours that a name is imported from; the module itself for a class of its own."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sae_moral."):
            if name in [alias.name for alias in node.names]:
                return str(node.module).removeprefix("sae_moral.")
    return None


def _members(annotation: ast.expr | None) -> Iterator[str]:
    if isinstance(annotation, ast.BinOp):
        yield from _members(annotation.left)
        yield from _members(annotation.right)
    elif annotation is not None:
        yield ast.unparse(annotation)


def _descriptions(docstring: str) -> dict[str, str]:
    """What the sections `Args` and `Attributes` say of each name; several names may share an entry."""
    found: dict[str, str] = {}
    names, depth = [], 0
    for line in docstring.splitlines():
        indent = len(line) - len(line.lstrip())
        if names and line.strip() and indent > depth:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        elif entry := re.fullmatch(r" *([a-z]\w*(?:, [a-z]\w*)*): (.+)", line):
            names, depth = entry[1].split(", "), indent
            found |= dict.fromkeys(names, entry[2])
        else:
            names = []
    return found


class Parser(argparse.ArgumentParser):
    """Bad arguments are errors like any other, and options come from parameters."""

    def error(self, message: str) -> NoReturn:
        """Raises:
        ValueError: always.
        """
        raise ValueError(f"{message}; see: {self.prog} --help")

    def options(self) -> list[str]:
        """Every spelling of every option."""
        return list(self._option_string_actions)

    def of(self, where: str, name: str, *flags: str, **changes: Any) -> None:
        """Add the option of a parameter: `parameters(where)[name]`, some of `add_argument`'s values changed."""
        known = parameters(where)[name]
        more: dict[str, Any] = {"dest": name, "default": known.default, "metavar": name.split("_")[-1].upper()}
        choices = changes.pop("choices", CHOICES.get(name))
        if isinstance(choices, str):
            choices = named(choices.partition(":")[2], choices.partition(":")[0])
        if "action" in changes or known.types == ("bool",):
            on = changes.pop("default", known.default)  # a switch that is off by itself has one spelling
            more = {"dest": name, "default": on, "action": "store_true" if on in (False, None) else _SWITCH}
        elif choices:
            more |= {"type": one_of(name.replace("_", " "), choices), "metavar": "{" + ",".join(choices) + "}"}
            more["choices"] = tuple(choices)  # for shells to complete; `type` has refused all others
        else:
            more["type"] = _reader(known.types)
        more |= {"help": known.help} | changes
        if isinstance(more["default"], tuple | list) and "type" in changes:
            more["default"] = ",".join(f"{one}" for one in more["default"])  # argparse reads it as if it was typed
        shown = not any(more["default"] is value for value in (UNKNOWN, None, False, True))
        words = more["help"].replace("`", "").replace("%", "%%") + (" (default: %(default)s)" if shown else "")
        self.add_argument(*(flags or (f"--{name.replace('_', '-')}",)), **{**more, "help": words})

    def all_of(self, where: str, *skip: str, **common: Any) -> None:
        """`of` for every parameter that is a number, a name or a switch; `common` changes all of them."""
        for name, known in parameters(where).items():
            if name not in skip and {"int", "float", "str", "bool"} & set(known.types):
                self.of(where, name, **common)


def one_of(kind: str, valid: Sequence[str]) -> Callable[[str], str]:
    """A reader of one of these names."""

    def read(text: str) -> str:
        if text not in valid:
            raise argparse.ArgumentTypeError(str(unknown(kind, text, valid)))
        return text

    return read


def _reader(types: Sequence[str]) -> Callable[[str], Any]:
    """From the text of an option to the value of its parameter."""
    if "Path" in types:
        return Path
    kind = str if "str" in types else int if "int" in types else float if "float" in types else str

    def read(text: str) -> Any:
        try:
            return None if text == "none" and kind is not str and "None" in types else kind(text)
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}") from None

    return read


def listed(read: Callable[[str], Any], expected: str, n: int | None = None) -> Callable[[str], list[Any]]:
    """A reader of values with commas, `n` of them; `expected`: the end of the message otherwise."""

    def read_all(text: str) -> list[Any]:
        try:
            values = [read(part) for part in text.split(",")]
        except ValueError:
            values = []
        if not values or n not in (None, len(values)):
            raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}")
        return values

    return read_all
