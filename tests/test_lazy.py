"""Packages whose names are imported when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sae_moral
from sae_moral import capture


@pytest.mark.parametrize("package", [sae_moral, capture])
def test_every_public_name_is_there_and_listed(package) -> None:
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is getattr(package, name)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'sae_moral\.capture' has no attribute 'captured'"):
        capture.captured  # noqa: B018


def test_nothing_is_imported_before() -> None:
    code = "import sae_moral, sae_moral.capture, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
