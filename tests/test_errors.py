"""How errors are said."""

from __future__ import annotations

import pytest

from sae_moral.errors import DataError, in_one_line, nearest, package_of


def test_an_error_on_one_line() -> None:
    assert in_one_line(ValueError("two\n  lines")) == "two lines"
    assert in_one_line(ValueError(" \n")) == in_one_line(ValueError()) == "ValueError"
    assert in_one_line(ValueError("abcdef"), 6) == "abcdef" and in_one_line(ValueError("abcdefg"), 6) == "abcde…"


@pytest.mark.parametrize(("module", "package"), [("flash_attn.ops", "flash-attn"), ("a", "a"), (None, None)])
def test_the_package_of_a_module(module: str | None, package: str | None) -> None:
    assert package_of(ImportError("none", name=module)) == package


def test_places_and_nearest_names() -> None:
    error = DataError("wrong", row=2).within("a.csv")
    assert str(error) == "a.csv, row 2: wrong" and str(error.within("b.zip", 7)) == "a.csv, row 7: wrong"
    assert nearest("cat", ["Cart", "dog"]) == "did you mean 'Cart'? valid: Cart, dog"
    assert nearest("x", []) == "valid: (none)"
