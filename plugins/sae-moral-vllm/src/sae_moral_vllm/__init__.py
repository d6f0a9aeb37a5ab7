"""Edits of the residual stream, served by vLLM. What the server needs of it needs torch and safetensors alone."""

from sae_moral_vllm.client import check, hook_record, request_body
from sae_moral_vllm.hook import ServedEdit, served_edits

__all__ = ["ServedEdit", "check", "hook_record", "request_body", "served_edits"]
