"""SAELens, asked for where it is first needed: version 6 needs TransformerLens 3, while all that is not about SAEs runs
with TransformerLens 4 as well."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from sae_moral.errors import in_one_line


def need_saelens() -> None:
    """Nothing, where SAELens can be imported.

    Raises:
        ModuleNotFoundError: it cannot; says what is installed, what is needed, and what to install.
    """
    try:
        import sae_lens  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f"SAEs need SAELens, which cannot be imported ({in_one_line(error, 120)}); {_installed()}; "
            "run: pip install sae-lens, in an environment of its own if TransformerLens 4 is to stay in this one"
        ) from error


def _installed() -> str:
    lens = f"TransformerLens {version('transformer-lens')} is installed"
    try:
        needed = [one for one in requires("sae-lens") or () if one.startswith("transformer-lens")]
        return f"{lens}, and SAELens {version('sae-lens')} needs {' '.join(needed)}"
    except PackageNotFoundError:
        return f"{lens}, and SAELens is not"
