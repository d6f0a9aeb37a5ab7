"""Inspect's entry point. Kept light: every `inspect` command imports it, and torch must not slow them down."""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from sae_moral_inspect.tasks import flames, flames_pairwise

__all__ = ["flames", "flames_pairwise", "sae_moral"]


@modelapi(name="sae-moral")
def sae_moral() -> type[ModelAPI]:
    """The provider behind `--model sae-moral/<model>`."""
    from sae_moral_inspect.provider import SaeMoralAPI

    return SaeMoralAPI
