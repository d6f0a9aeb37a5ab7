"""Options that are read from source: the same as what is imported, and nothing heavy is."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from importlib import import_module
from typing import get_args

import pytest

from sae_moral.cli import COMMANDS, table
from sae_moral.cli.options import CHOICES, UNKNOWN, Parser, constant, listed, named, one_of, parameters

SOURCES = [value for name, value in vars(table).items() if name.isupper() and isinstance(value, str) and ":" in value]
SOURCES = [value for value in SOURCES if re.fullmatch(r"[\w.]+:\w+", value)]


def imported(where: str) -> object:
    module, _, name = where.partition(":")
    return getattr(import_module(f"sae_moral.{module}"), name)


@pytest.mark.parametrize("where", SOURCES)
def test_names_and_defaults_are_those_of_the_function(where: str) -> None:
    known, of = parameters(where), imported(where)
    if dataclasses.is_dataclass(of):
        real = {field.name: field.default for field in dataclasses.fields(of)}
    else:
        assert callable(of)
        real = {
            name: one.default for name, one in inspect.signature(of).parameters.items() if one.kind != one.VAR_KEYWORD
        }
    assert list(known) == list(real)
    for name, one in known.items():
        if one.default is not UNKNOWN:
            assert one.default == real[name] and type(one.default) is type(real[name]), name


def test_most_defaults_are_read() -> None:
    found = [one.default for where in SOURCES for one in parameters(where).values()]
    assert len(SOURCES) >= 10 and sum(default is not UNKNOWN for default in found) > 0.6 * len(found)
    assert parameters(table.SWEEP)["positions"].default == "all-but-first"  # a field of a class of another module
    assert parameters(table.SWEEP)["kls"].default == (0.02,)  # a constant of the module


@pytest.mark.parametrize("where", [*CHOICES.values(), "steering.steering:FORMS", "surgery.settings:FORMS"])
def test_choices_are_those_of_the_code(where: str) -> None:
    module, _, name = where.partition(":")
    real = get_args(imported(where)) or imported(where)  # of a Literal its values
    assert isinstance(real, dict | tuple) and named(name, module) == tuple(real) != ()


def test_values_of_source() -> None:
    def value(text: str) -> object:
        return constant(ast.parse(text, mode="eval").body, "protocol")

    assert value("(1, 'a', None)") == (1, "a", None) and value("-2.5") == -2.5
    assert value("PROTOCOLS") == ("paper", "audited") and value("{'a': f(1)}") == ("a",)
    for text in ("f(1)", "nothing_of_that_name", "a.b.c", "x[0]"):
        assert value(text) is UNKNOWN


def test_readers_say_what_they_expect() -> None:
    assert listed(float, "numbers")("1,2") == [1.0, 2.0]
    for text in ("1,2", "1,x,2", "", "1,2,3,4"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected three numbers"):
            listed(float, "three numbers", 3)(text)
    with pytest.raises(argparse.ArgumentTypeError, match="unknown form 'edti'; did you mean 'edit'"):
        one_of("form", ("edit", "paper"))("edti")


def test_an_option_is_its_parameter() -> None:
    parser = Parser(prog="p")
    parser.all_of("surgery.settings:SurgerySettings", "name", "form")
    parser.of("diagnosis:diagnose", "protocol")
    given = parser.parse_args(["--outliers", "none", "--per-dimension", "3", "--no-keep-norm", "--lr", "0.5"])
    assert (given.outliers, given.per_dimension, given.keep_norm, given.lr) == (None, 3, False, 0.5)
    assert given.protocol == "audited" and given.epochs == 50 and not hasattr(given, "sparsity")
    for line, message in (
        (["--per-dimension", "3.5"], "'3.5'; expected a whole number"),
        (["--lr", "fast"], "'fast'; expected a number"),
        (["--protocol", "papre"], "did you mean 'paper'"),
        (["--lr"], "expected one argument"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            parser.parse_args(line)


def test_help_imports_nothing_heavy() -> None:
    lines = [[name] for name in COMMANDS] + [["data", name] for name in ("info", "build", "verify", "sample")]
    code = f"""
import sys
from sae_moral.cli import main
for line in {[[], *lines]!r}:
    try:
        main([*line, "--help"])
    except SystemExit as error:
        assert error.code == 0, line
heavy = {{"torch", "numpy", "pandas", "scipy", "transformers", "sae_lens", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: sae-moral") == len(lines) + 1


LOADING = {
    "revision": ("v1", "v1"),
    "device_map": ('{"lm_head": 0, "": "cuda:1"}', {"lm_head": 0, "": "cuda:1"}),
    "max_memory": ('{"0": "20GiB", "cpu": "9GiB"}', {0: "20GiB", "cpu": "9GiB"}),
    "n_devices": ("2", 2),
    "quantization_config": ('{"load_in_4bit": true}', {"load_in_4bit": True}),
    "trust_remote_code": (None, True),
}


def test_every_command_that_loads_a_model_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import sae_moral.capture
    from sae_moral.cli import parser
    from sae_moral.cli.commands import _model

    given: dict[str, object] = {}
    signature = inspect.signature(sae_moral.capture.load_model)

    def load_model(name: str, **options: object) -> None:
        given.update(options)

    load_model.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(sae_moral.capture, "load_model", load_model)
    words = [(f"--{name.replace('_', '-')}", text) for name, (text, _) in LOADING.items()]
    options = [word for pair in words for word in pair if word is not None]
    needed = {
        "latents": ["--sae", "s"],
        "compare-saes": ["--saes", "s"],
        "operate": ["s"],
        "steer": ["o", "--prompt", "p"],
    }
    needed["sweep"] = ["o", "--alphas", "1"]
    for command in ("diagnose", "train-sae", "latents", "compare-saes", "operate", "steer", "sweep"):
        given.clear()
        _model(parser(command).parse_args([command, "m", *needed.get(command, []), *options]))
        expected = {name: value for name, (_, value) in LOADING.items()}
        assert given == {"dtype": "float32", "device": None, **expected}, command
    given.clear()
    _model(parser("diagnose").parse_args(["diagnose", "m"]))
    plain = {name: one.default for name, one in signature.parameters.items() if name in given and name != "dtype"}
    assert {name: value for name, value in given.items() if name != "dtype"} == plain  # nothing asked, nothing changed


@pytest.mark.parametrize("text", ["[]", "{", "4bit"])
def test_json_options_say_what_they_expect(text: str) -> None:
    from sae_moral.cli import parser

    with pytest.raises(ValueError, match=r"--quantization-config: .*; expected a JSON object, e.g. \{\"load_in_4bit"):
        parser("diagnose").parse_args(["diagnose", "m", "--quantization-config", text])
