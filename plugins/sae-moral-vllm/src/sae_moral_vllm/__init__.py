"""Edits of the residual stream, served by vLLM. What the server needs of it needs torch and safetensors alone."""

from sae_moral_vllm.hook import ServedEdit, request_body, served_edits

__all__ = ["ServedEdit", "request_body", "served_edits"]
