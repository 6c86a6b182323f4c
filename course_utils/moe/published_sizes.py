"""The sizes of an MoE layer in a published `config.json`, under the names that families give them.

A number may be given once, or as a list with one number per layer. Layers without experts must be
the first ones: that is the case in all models of the course. Left out: layers of different sizes,
and experts in every second layer (`decoder_sparse_step`, `moe_layer_interval`, `moe_layer_freq`).
"""

from collections.abc import Sequence
from typing import Any

_NUMBER = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k")
_WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
_SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size")


def sizes(config: dict[str, Any]) -> dict[str, int]:
    """The fields of `MoEConfig` that are sizes. Raises ValueError that names key and value."""
    width = _whole(config, *_WIDTH)
    return {
        "num_experts": _whole(config, *_NUMBER),
        "num_experts_per_tok": _whole(config, *_PER_TOKEN),
        "moe_intermediate_size": width,
        "n_shared_experts": _shared(config, width),
        "first_k_dense_replace": _dense_layers(config),
        "num_hash_layers": _hash_layers(config),
    }


def first(config: dict[str, Any], *keys: str) -> Any:
    """The value of the first of `keys` that the config has."""
    for key in keys:
        if config.get(key) is not None:
            return one(config, key)
    raise ValueError(f"{' or '.join(keys)} is missing: {config['model_type']} must state it")


def one(config: dict[str, Any], key: str) -> Any:
    """A value, or the one that a list of values per layer repeats."""
    value = config[key]
    if not isinstance(value, list):
        return value
    if not value or any(item != value[0] for item in value):
        raise ValueError(f"{key} differs between layers: only equal layers are read")
    return value[0]


def _whole(config: dict[str, Any], *keys: str) -> int:
    value = first(config, *keys)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{' or '.join(keys)} is {value!r}: it must be a whole number >= 1")
    return value


def _shared(config: dict[str, Any], width: int) -> int:
    """Shared experts, counted in widths of one routed expert (Qwen publishes their total width)."""
    for key in _SHARED_WIDTH:
        if config.get(key):
            total = _whole(config, key)
            if total % width:
                raise ValueError(f"{key} is {total}: it must be a multiple of {width}")
            return total // width
    return next((one(config, key) for key in _SHARED if config.get(key)), 0)


def _dense_layers(config: dict[str, Any]) -> int:
    """How many layers at the start have no experts; layers without experts elsewhere raise."""
    for key, plain in (("decoder_sparse_step", 1), ("moe_layer_interval", 1)):
        if config.get(key, plain) != plain:
            raise ValueError(f"{key} is {config[key]}: only {plain} is read")
    if config.get("moe_layer_end_index", -1) not in (-1, config.get("num_hidden_layers", 0) - 1):
        raise ValueError(f"moe_layer_end_index is {config['moe_layer_end_index']}: only -1 is read")
    dense = list(config.get("mlp_only_layers") or [])
    if dense != list(range(len(dense))):
        raise ValueError(f"mlp_only_layers is {dense}: only the first layers may be dense")
    every = config.get("moe_layer_freq", 1)
    if isinstance(every, list):
        return _leading("moe_layer_freq", every, 0)
    if every != 1:
        raise ValueError(f"moe_layer_freq is {every}: only 1 is read")
    if types := config.get("mlp_layer_types"):
        return _leading("mlp_layer_types", types, "dense")
    return config.get("first_k_dense_replace", config.get("moe_layer_start_index")) or len(dense)


def _hash_layers(config: dict[str, Any]) -> int:
    if types := config.get("mlp_layer_types"):
        return _leading("mlp_layer_types", types, "hash_moe")
    return config.get("num_hash_layers") or 0


def _leading(key: str, values: Sequence, kind: Any) -> int:
    """How many values at the start are `kind`; one further down raises."""
    number = next((i for i, value in enumerate(values) if value != kind), len(values))
    if kind in values[number:]:
        raise ValueError(f"{key} has {kind!r} after layer {number}: only the first may be")
    return number
