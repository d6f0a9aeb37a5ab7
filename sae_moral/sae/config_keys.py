"""Every key of an SAE's configuration, and what is done about it: applied, warned of, refused, or without effect here.

A configuration is read as its file says it, before SAELens drops what it does not know: an activation that SAELens no
longer has, or a key of a later version, is otherwise gone without a word. Keys of the old flat layout (before SAELens
6) and of its `metadata` are one list here; no name stands in both for different things.

Evidence: the configuration classes and loaders of SAELens 6.54, and what versions 1 to 5 wrote.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sae_moral.capture.hooks import SITES, STREAM
from sae_moral.errors import SaeMoralWarning

RENAMED = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
"""Older names of keys, as SAELens itself renames them."""


@dataclass(frozen=True)
class Key:
    """What happens to a key of an SAE's configuration.

    Attributes:
        name: of the key, in the configuration or its metadata.
        effect: `applied`, `warned` or `refused`.
        why: what is done, or the end of the sentence that begins with the SAE's name; `{value}` is filled in.
        when: whether a value is meant, given with the whole configuration.
    """

    name: str
    effect: Literal["applied", "warned", "refused"]
    why: str
    when: Callable[[Any, Mapping[str, Any]], bool] = lambda value, _: value not in (None, False)


def _is_some_positions(value: Any, _: Any) -> bool:
    try:
        return slice(*value).indices(1 << 30) != (0, 1 << 30, 1)
    except (TypeError, ValueError):  # no slice at all: shown as it is
        return value is not None


def _activation(value: Any) -> str:
    return re.sub(r"^(torch)?nn|[^a-z]", "", str(value).lower())


def _is_another_activation(value: Any, config: Mapping[str, Any]) -> bool:
    name, architecture = _activation(value), config["architecture"]
    known = {"relu": True, "jumprelu": architecture == "jumprelu", "topk": architecture == "topk"}
    return value is not None and not known.get(name, False)


def _are_other_options(value: Any, config: Mapping[str, Any]) -> bool:
    given = dict(value or {})
    other_k = given.pop("k", None) not in (None, config.get("k"))
    return other_k or any(option not in (None, False) for option in given.values())


_FOLDED = ("expected_average_only_in", "covariance_whitening")
_STREAM = "expected an SAE of the residual stream"
_OTHER_WEIGHTS = ("revision", "checkpoint_index", "checkpoint_value", "hf_model", "quantization_config", "load_in_4bit")
_SAME_STREAM = {
    "center_writing_weights", "center_unembed", "fold_ln", "fold_value_biases", "refactor_factored_attn_matrices",
    "device", "device_map", "n_devices", "max_memory", "dtype", "torch_dtype", "move_to_device", "low_cpu_mem_usage",
    "trust_remote_code", "token", "cache_dir", "local_files_only", "attn_implementation", "first_n_layers",
    "default_prepend_bos", "default_padding_side",
}  # fmt: skip
KEYS = (
    Key("architecture", "applied", "which latents there are; see `ARCHITECTURES`"),
    Key("d_in", "applied", "vectors of another width are refused"),
    Key("d_sae", "applied", "weights of another number of latents are refused"),
    Key("dtype", "applied", "vectors are cast to it"),
    Key("k", "applied", "latents that are kept, by SAELens"),
    Key("apply_b_dec_to_input", "applied", "SAELens subtracts the decoder's bias from the input"),
    Key("normalize_activations", "applied", "SAELens normalises each vector"),
    Key(
        "normalize_activations",
        "refused",
        "expects its input normalised by {value}, which is not folded into its weights, and the constants are not in "
        "its files; fold them with fold_activation_norm_scaling_factor or fold_activation_whitening first",
        lambda value, _: value in _FOLDED,
    ),
    Key("activation_fn", "applied", "relu, and topk with its k"),
    Key(
        "activation_fn",
        "refused",
        "was trained with the activation {value}, and SAELens, which has relu and topk (with k in "
        "activation_fn_kwargs), loads it as {architecture}: its latents would be others",
        _is_another_activation,
    ),
    Key("activation_fn_kwargs", "applied", "k of topk"),
    Key(
        "activation_fn_kwargs",
        "refused",
        "was trained with the activation options {value}, and SAELens would follow k alone (it loads k={k})",
        _are_other_options,
    ),
    Key("finetuning_scaling_factor", "applied", "factors in the file are multiplied into the decoder's rows"),
    Key(
        "finetuning_scaling_factor",
        "refused",
        "says that its latents are rescaled by finetuning, and its weights have no such factors; save it again with "
        "SAELens 5, or set finetuning_scaling_factor to false if they are in the decoder already",
    ),
    Key(
        "reshape_activations",
        "refused",
        f"reads activations reshaped by {{value}}; {_STREAM}",
        lambda value, _: value not in (None, "none"),
    ),
    Key("hook_name", "applied", "where vectors are captured: names of TransformerLens, or of blocks of transformers"),
    Key("hf_hook_name", "applied", "in the place of a hook_name that is missing"),
    Key("hook_layer", "applied", "fills in a hook_name with {{layer}} in it"),
    Key(
        "hook_head_index",
        "refused",
        f"reads attention head {{value}}; {_STREAM}",
        lambda value, _: value is not None,
    ),
    *(
        Key(
            name,
            "refused",
            f"predicts the activations of {{value}}; {_STREAM}",
            lambda value, config: value not in (None, config.get("hook_name"), config.get("hf_hook_name")),
        )
        for name in ("hook_name_out", "hf_hook_name_out")
    ),
    Key("d_out", "refused", "writes vectors of {value} numbers and reads {d_in}; " + _STREAM,
        lambda value, config: value not in (None, config.get("d_in"))),
    Key("model_name", "applied", "an SAE of another model is refused"),
    Key("model_from_pretrained_kwargs", "applied", "center_writing_weights: the mean over dimensions is taken out"),
    Key(
        "model_from_pretrained_kwargs",
        "warned",
        "was trained on a model loaded with {value}; see that this one is the same",
        lambda value, _: bool(set(value or {}) - _SAME_STREAM) and any((value or {}).values()),
    ),
    Key("prepend_bos", "applied", "whether prompts begin with BOS; vectors of the other kind are warned of"),
    Key("exclude_special_tokens", "applied", "vectors that pool special tokens are warned of"),
    Key("centring", "applied", "says that taking out the mean is folded into the encoder"),
    Key("sae_moral", "applied", "granularity, template and pooling of the prompts, of an SAE made here"),
    Key(
        "seqpos_slice",
        "warned",
        "was trained on the positions {value} of its contexts only; here it reads all",
        _is_some_positions,
    ),
    Key("use_chat_formatting", "warned", "was trained on texts in their chat format"),
    Key("model_kwargs", "warned", "was trained on a model that was run with {value}", lambda value, _: bool(value)),
)  # fmt: skip
"""Keys that shape the input or the latents; the table in docs/latents.md is this one."""

WITHOUT_EFFECT = frozenset(
    """
    device metadata sae_lens_version sae_lens_training_version neuronpedia_id model_class_name context_size
    dataset_path dataset_trust_remote_code is_dataset_tokenized streaming use_error_term sequence_separator_token
    begin_batch_token begin_sequence_token disable_concat_sequences
    training_architecture training_architecture_details jump_relu_threshold l0 num_dead_features sparsity log_sparsity
    hook_head_index_out

    use_sparse_activations topk_threshold_lr aux_loss_coefficient matryoshka_widths use_matryoshka_aux_loss
    decoder_init_norm decoder_init_method b_dec_init_method apply_b_dec_to_input_init decoder_heuristic_init
    decoder_heuristic_init_norm decoder_orthogonal_init init_encoder_as_decoder_transpose normalize_sae_decoder
    scale_sparsity_penalty_by_decoder_norm mse_loss_normalization mse_loss_type noise_scale lp_norm
    l1_coefficient l1_loss_wd_norm l1_warm_up_steps l0_coefficient l0_warm_up_steps pre_act_loss_coefficient
    jumprelu_init_threshold jumprelu_bandwidth jumprelu_sparsity_loss_mode jumprelu_tanh_scale jumprelu_ste_to_input
    use_ghost_grads ghost_grad_coefficient expansion_factor from_pretrained_path

    lr lr_end lr_scheduler_name lr_warm_up_steps lr_decay_steps n_restart_cycles adam_beta1 adam_beta2
    train_batch_size train_batch_size_tokens train_batch_size_samples training_tokens total_training_tokens
    tokens_per_buffer n_batches_in_buffer store_batch_size store_batch_size_prompts eval_batch_size_prompts
    n_eval_batches finetuning_tokens finetuning_method feature_sampling_method feature_sampling_window
    feature_reinit_scale resample_batches dead_feature_window dead_feature_estimation_method dead_feature_threshold
    n_checkpoints checkpoint_path save_final_checkpoint output_path resume resume_from_checkpoint seed shuffle
    act_store_device autocast autocast_lm compile_llm llm_compilation_mode compile_sae sae_compilation_mode
    use_cached_activations cached_activations_path new_cached_activations_path activations_mixing_fraction
    n_batches_for_norm_estimate prefetch_llm_batches llm_device verbose
    log_to_wandb log_activations_store_to_wandb log_optimizer_state_to_wandb log_weights_to_wandb wandb_project
    wandb_id run_name wandb_entity wandb_log_frequency eval_every_n_wandb_logs logger
    """.split()
)
"""Keys of trainings, of data sets and of names: no latent of a given vector depends on them."""


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration and its metadata as one mapping, older names of keys replaced."""
    own: dict[str, Any] = {name: value for name, value in config.items() if name != "metadata"}
    found: dict[str, Any] = {}
    for given, value in {**own, **(config.get("metadata") or {})}.items():
        name = RENAMED[given] if given in RENAMED else given
        found[name] = value if found.get(name) is None else found[name]
    return found


def check_keys(sae: Any, name: str, read: Mapping[str, Any] | None = None) -> None:
    """Refuse, or warn of, what a configuration says and nothing here follows.

    Args:
        sae: the SAELens object; its own fields are those that SAELens applies.
        name: what to call it.
        read: the configuration as its file says it.

    Raises:
        ValueError: a key of `KEYS` that is refused.

    Warns:
        SaeMoralWarning: a key of `KEYS` that is warned of; keys that nobody here knows.
    """
    own = flat(sae.cfg.to_dict())
    config = {"k": None, **flat(read or {}), **own, "architecture": str(sae.cfg.architecture())}
    for key in KEYS:
        value = config.get(key.name)
        try:
            if key.effect == "applied" or not key.when(value, config):
                continue
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{name} has {key.name}={value!r:.80}, which SAELens does not write ({error})") from error
        problem = f"{name} {key.why.format(**{**config, 'value': value})}"
        if key.effect == "refused":
            raise ValueError(problem)
        warnings.warn(problem, SaeMoralWarning, stacklevel=4)
    known = {key.name for key in KEYS} | WITHOUT_EFFECT | set(vars(sae.cfg))
    unknown = {key: value for key, value in config.items() if key not in known and value is not None}
    if unknown:
        told = ", ".join(f"{key}={value!r}" for key, value in sorted(unknown.items()))
        warnings.warn(
            f"{name} has settings that are not known here and are not followed: {told[:300]}; if they shape its input "
            "or its latents, what is measured is not what it was trained on",
            SaeMoralWarning,
            stacklevel=4,
        )


_BLOCK = re.compile(
    r"(?:(?:model|transformer|gpt_neox|decoder|language_model|base_model|text_model|backbone|module)\.)*"
    r"(?:layers|h|blocks)(?:\.(\d+)|\[(\d+)\])(?:\.(output|input))?"
)
"""A block of a transformers model, as SAELens' `HookedProxyLM`, nnsight and Gemma Scope write it: its output is the
residual stream after it."""
_HOOK = re.compile(r"blocks\.(\d+)\.(hook_resid_post|hook_out|hook_resid_pre|hook_in|hook_resid_mid|hook_mlp_out)")
_BEFORE = ("hook_resid_pre", "hook_in", "input")


def place_of(hook: str | None) -> tuple[int, str] | None:
    """The block of a hook and where in it the hook reads (a name of `SITES`); None where that is something else. The
    stream before block l is the one after block l − 1; before block 0 it is the embedding."""
    if match := _HOOK.fullmatch(hook or ""):
        number, end = match.groups()
    elif match := _BLOCK.fullmatch(hook or ""):
        number, end = match.group(1) or match.group(2), match.group(3)
    else:
        return None
    found = int(number) - (end in _BEFORE)
    site = next((name for name, ends in SITES.items() if end in ends), STREAM)
    return None if found < 0 else (found, site)


def hook_of(config: Mapping[str, Any]) -> str | None:
    """The hook that a flat configuration names."""
    hook, layer = config.get("hook_name") or config.get("hf_hook_name"), config.get("hook_layer")
    if not hook:
        return None
    return str(hook) if layer is None else str(hook).replace("{layer}", str(layer))
