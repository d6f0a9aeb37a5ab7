"""From a folder or hub name and the options of transformers to a TransformerBridge."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sae_moral.capture.load_errors import NO_FILE, why
from sae_moral.capture.model_files import ADAPTER, adapter_base, adapter_of
from sae_moral.errors import DataError
from sae_moral.provenance import HookedModel

HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
"""Options that say where files are: those of configuration, weights and tokenizer alike."""


@dataclass(frozen=True)
class LoadRequest:
    """A model to load.

    Attributes:
        source: a folder, or a hub name.
        dtype: of the weights that are not quantised.
        device: where to; None where `placement` says it.
        placement: TransformerLens' `device_map`, `max_memory`, `n_devices`.
        hub: some of `HUB`.
        trust_remote_code: as transformers has it.
        more: what else `from_pretrained` is given.
        commit: of the hub, where it is known.
    """

    source: str
    dtype: torch.dtype
    device: str | None
    placement: Mapping[str, Any]
    hub: Mapping[str, Any]
    trust_remote_code: bool
    more: Mapping[str, Any]
    commit: str | None = None

    def load(self) -> HookedModel:
        """The model inside a bridge.

        Raises:
            Exception: whatever the libraries raise.
        """
        from transformer_lens.model_bridge import TransformerBridge

        if "gguf_file" not in self.more:
            if adapter := adapter_of(self.source, self.hub):
                return self._merged(adapter)
            if self.device is not None and self._is_quantised():
                # A quantiser places the weights; to() refuses most of what it made.
                return replace(self, device=None, placement={"device_map": {"": self.device}}).load()
        if self.more or set(self.hub) - {"revision"}:
            return self._bridge(self._whole(), self.source)
        return TransformerBridge.boot_transformers(
            self.source,
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            **self.hub,
            **self.placement,
        )

    def pinned(self) -> LoadRequest:
        """The same at the one commit that the hub, or its cache, has now: all files are of that one, and what is in
        the cache is not asked for again.

        Raises:
            OSError: no such repository or revision, or no access.
        """
        from huggingface_hub import is_offline_mode
        from transformers.utils.hub import cached_file, extract_commit_hash

        problem = OSError(f"{self.source} {NO_FILE} a file named config.json")
        for name in ("config.json", ADAPTER, *([self.more["gguf_file"]] if "gguf_file" in self.more else [])):
            try:
                path = cached_file(self.source, name, **self.hub)
            except OSError as error:
                # A hub that was not reached says nothing of a file; asking again takes as long again.
                if NO_FILE not in str(error) and not is_offline_mode():
                    raise
                problem = error if name == "config.json" else problem
                continue
            if path is not None:
                commit = extract_commit_hash(path, None)
                return replace(self, hub={**self.hub, "revision": commit}, commit=commit)
        raise problem

    def config(self, **changes: Any) -> Any:
        """transformers' configuration of the model; no weight is read.

        Raises:
            OSError, ValueError: there is none, or it cannot be read.
        """
        from transformers import AutoConfig

        trust = {"trust_remote_code": self.trust_remote_code}
        return AutoConfig.from_pretrained(self.source, **self.hub, **trust, **self._gguf, **changes)

    def tokenizer(self) -> Any:
        """Its tokenizer, as TransformerLens loads it.

        Raises:
            OSError, ValueError: there is none, or it cannot be read.
        """
        return load_tokenizer(self.source, **self.hub, **self._gguf, trust_remote_code=self.trust_remote_code)

    def empty(self) -> Any:
        """The transformers model of its configuration, on the meta device: shapes without weights.

        In bfloat16, the one dtype in which experts of a mixture can be run there.

        Raises:
            Exception: whatever the libraries raise.
        """
        from transformers.initialization import no_init_weights

        config = self.config()
        kind = _class_of(config)
        build = getattr(kind, "from_config", None) or kind._from_config
        trust = {"trust_remote_code": True} if self.trust_remote_code else {}
        with torch.device("meta"), no_init_weights():
            model = build(config, dtype=torch.bfloat16, attn_implementation="eager", **trust)
        model.tie_weights()  # which no_init_weights leaves out
        return model.eval()

    @property
    def _gguf(self) -> dict[str, Any]:
        return {"gguf_file": self.more["gguf_file"]} if "gguf_file" in self.more else {}

    def _is_quantised(self) -> bool:
        from transformers import PretrainedConfig

        return (
            "quantization_config" in self.more
            or PretrainedConfig.get_config_dict(self.source, **self.hub)[0].get("quantization_config") is not None
        )

    def _whole(self) -> Any:
        """The transformers model, of the class and with the settings that TransformerLens would load it with."""
        config = self.config(output_attentions=True)
        model: Any = _class_of(config).from_pretrained(self.source, config=config, **self._options())
        if self._gguf:
            # The weights are dequantised already; the record of it would pass for a quantised model.
            model.hf_quantizer.remove_quantization_config(model)
        return model if self.device is None else model.to(self.device)

    def _options(self) -> dict[str, Any]:
        """Those of `from_pretrained`."""
        from transformer_lens.utilities.multi_gpu import resolve_device_map

        asked = self.placement.get
        device_map, max_memory = resolve_device_map(asked("n_devices"), asked("device_map"), None, asked("max_memory"))
        places = {} if device_map is None else {"device_map": device_map, "max_memory": max_memory}
        own = {"attn_implementation": "eager", "dtype": self.dtype, "trust_remote_code": self.trust_remote_code}
        return {**own, **self.hub, **places, **self.more}

    def _merged(self, adapter: Path) -> HookedModel:
        """The adapter's base model with the adapter merged into its weights.

        Raises:
            DataError: peft is not installed; quantised while loading; the base model is not to be had.
        """
        from huggingface_hub import snapshot_download
        from transformers.utils.import_utils import is_peft_available

        kind, base = adapter_base(adapter)
        what = f"an adapter ({kind}) of {base!r}, not a whole model"
        merging = (
            f"AutoPeftModelForCausalLM.from_pretrained({self.source!r}).merge_and_unload().save_pretrained('merged')"
        )
        if not is_peft_available():
            raise DataError(
                f"{what}; pip install peft, and it is merged into that model here; or merge it where peft is, with "
                f"{merging}, and give that folder",
                file=adapter,
            )
        if "quantization_config" in self.more:
            raise DataError(f"{what}; merge it before it is quantised, with peft's {merging}", file=adapter)
        from peft import AutoPeftModelForCausalLM  # pyright: ignore[reportMissingImports]

        hub = {name: value for name, value in self.hub.items() if name not in ("revision", "subfolder")}
        if not Path(self.source).is_dir():
            # As a folder: peft would look for the adapter's revision in the base model's repository, too.
            part = f"{self.hub['subfolder']}/" if self.hub.get("subfolder") else ""
            patterns = [f"{part}{name}" for name in ("adapter_*", "*.json", "*.jinja", "*.model", "*.txt")]
            where = {name: value for name, value in hub.items() if name != "proxies"}
            snapshot_download(self.source, revision=self.commit, allow_patterns=patterns, **where)
        here = replace(self, source=str(adapter.parent), hub=hub)
        try:
            model = AutoPeftModelForCausalLM.from_pretrained(here.source, **here._options()).merge_and_unload()
        except OSError as error:
            raise DataError(f"{what}; {why(base, 'hub name', error)}", file=adapter) from error
        model = model if self.device is None else model.to(self.device)
        own = (adapter.parent / "tokenizer_config.json").exists()
        return replace(here, source=self.source)._bridge(model, here.source if own else base)

    def _bridge(self, model: Any, tokenizer_of: str) -> HookedModel:
        tokenizer = replace(self, source=tokenizer_of).tokenizer()
        return bridge_of(model, self.source, tokenizer, trust_remote_code=self.trust_remote_code)


def _class_of(config: Any) -> Any:
    """The transformers class that TransformerLens loads such a model with."""
    from transformer_lens.model_bridge.sources import transformers as source

    return source.get_hf_model_class_for_architecture(source.determine_architecture_from_hf_config(config))


def load_tokenizer(source: str, **options: Any) -> Any:
    """The tokenizer of a folder or hub name as TransformerLens loads it: with a BOS where it has one.

    Raises:
        OSError: there is none.
        ValueError: it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, add_bos_token=True, **options)
    except ValueError:  # without a BOS
        return AutoTokenizer.from_pretrained(source, **options)


def bridge_of(model: Any, name: str, tokenizer: Any, **options: Any) -> HookedModel:
    """A transformers model inside a TransformerBridge, with this tokenizer as it is."""
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = copy.deepcopy(tokenizer)
    before = tokenizer.init_kwargs
    # TransformerLens would load it again by its path, unless it adds a BOS: what its owner changed would be lost.
    tokenizer.init_kwargs = {**before, "name_or_path": tokenizer.name_or_path, "add_bos_token": True}
    place = str(next(model.parameters()).device)
    bridge = TransformerBridge.boot_transformers(
        name, hf_model=model, dtype=model.dtype, device=place, tokenizer=tokenizer, **options
    )
    bridge.tokenizer.init_kwargs = before
    return bridge
