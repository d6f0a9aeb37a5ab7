"""sae_moral for Inspect AI: a provider for steered models, and the benchmark Flames."""

from sae_moral_inspect.answers import Answer, read_answers, write_answers
from sae_moral_inspect.prompts import FlamesPrompt, flames_prompts

__all__ = ["Answer", "FlamesPrompt", "flames_prompts", "read_answers", "write_answers"]
