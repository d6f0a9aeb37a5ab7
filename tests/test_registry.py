"""The registry: declared and registered things by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from sae_moral.registry import Registry


def _entries(*pairs: tuple[str, str]) -> EntryPoints:
    return EntryPoints(EntryPoint(name, value, "some.group") for name, value in pairs)


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    entries = _entries(("pi", "math:pi"), ("e", "math:e"), ("pi", "math:pi"))
    monkeypatch.setattr("sae_moral.registry.entry_points", lambda group: entries.select(group=group))
    return Registry("number", "some.group")


def test_what_is_declared_or_registered_is_known(declared: Registry[object]) -> None:
    assert declared.names() == ["e", "pi"]
    assert declared.register("two", 2) == 2
    assert declared.names() == ["e", "pi", "two"]
    assert declared.get("two") == 2
    assert declared.get("pi") == pytest.approx(3.14159, abs=1e-5)


def test_taken_and_unknown_names_are_refused(declared: Registry[object]) -> None:
    with pytest.raises(ValueError, match=r"a number named 'pi' exists already; .*taken: e, pi"):
        declared.register("pi", 3)
    with pytest.raises(ValueError, match="unknown number 'pie'; did you mean 'pi'"):
        declared.get("pie")


def test_two_packages_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = _entries(("pi", "math:pi"), ("pi", "cmath:pi"))
    monkeypatch.setattr("sae_moral.registry.entry_points", lambda group: entries)
    with pytest.raises(ValueError, match="two packages declare the number 'pi': math:pi and cmath:pi; uninstall one"):
        Registry("number", "some.group").names()
