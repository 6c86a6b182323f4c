"""Quantized models in the layout of compressed-tensors, which `transformers` and vLLM load.

A folder with `config.json`, whose `quantization_config` says which layers have which scheme, and
`model.safetensors`. A layer's codes are `weight_packed`, 32-bit words along its rows, with
`weight_scale` (O, S) and `weight_shape`; zero points are packed along the OTHER dimension, columns
of words. Codes of asymmetric schemes are signed there and unsigned here: the stored bits are the
same.

Only linear layers can be quantized in this layout, so embedding and head are written in full, and a
quantized table as what its codes stand for. `transformers` 5.23 loads symmetric schemes; packed
zero points it does not (it makes room for unpacked ones), their own compressor does. Left out:
experts (their names differ by family), and layers with biases.
Source: compressed-tensors 0.20, `compressors/pack_quantized`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from course_utils.models.decoder import DecoderLM
from course_utils.quantization.model import HEAD, TABLE, packed_weights
from course_utils.quantization.packed import PARTS, PackedWeight
from course_utils.quantization.packing import as_int32, pack
from course_utils.quantization.schemes import QuantizationArgs


def save_compressed_tensors(
    model: DecoderLM, folder: Path | str, dtype: torch.dtype = torch.bfloat16
) -> int:
    """Write a quantized dense model; returns the bytes of its weights' file.

    dtype is that of the weights that are not quantized. Raises ValueError for a model without
    quantized layers, and for one that is not dense with grouped-query attention.
    """
    config = model.config
    if config.moe or config.mla or config.layer_types or config.linear:
        raise ValueError("only dense models with grouped-query attention are written here")
    weights = {n: w for n, w in packed_weights(model).items() if n not in (HEAD, TABLE)}
    if not weights:
        raise ValueError("no layer is quantized: call quantize_model first")
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith(PARTS) and name != f"{HEAD}.weight"
    }
    tensors[f"{TABLE}.weight"] = model.model.embed_tokens.weight.detach().to("cpu", dtype)
    if not config.tie_word_embeddings:
        tensors[f"{HEAD}.weight"] = model.lm_head.weight.detach().to("cpu", dtype)
    for name, weight in weights.items():
        tensors |= {f"{name}.{part}": tensor for part, tensor in layer_tensors(weight).items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = hub_config(model, dtype) | {"quantization_config": quantization_config(weights)}
    (folder / "config.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return (folder / "model.safetensors").stat().st_size


def layer_tensors(weight: PackedWeight) -> dict[str, Tensor]:
    """The tensors of one layer, by their names in the layout."""
    bits = weight.args.num_bits
    tensors = {
        "weight_packed": as_int32(weight.packed.cpu()).contiguous(),
        "weight_scale": weight.scale.cpu().contiguous(),
        "weight_shape": torch.tensor(weight.shape),
    }
    if weight.zero_point is not None:
        columns = pack(weight.zero_point.cpu().T.contiguous(), bits)
        tensors["weight_zero_point"] = as_int32(columns).T.contiguous()
    return tensors


def quantization_config(weights: dict[str, PackedWeight]) -> dict[str, Any]:
    """Which layers have which scheme: one group per scheme, its layers by name."""
    groups: dict[QuantizationArgs, list[str]] = {}
    for name, weight in weights.items():
        groups.setdefault(weight.args, []).append(name)
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": [HEAD],
        "config_groups": {
            f"group_{number}": {
                "targets": names,
                "weights": asdict(args) | {"type": "int", "dynamic": False},
                "format": "pack-quantized",
            }
            for number, (args, names) in enumerate(groups.items())
        },
    }


def hub_config(model: DecoderLM, dtype: torch.dtype) -> dict[str, Any]:
    """The model's `config.json`: Qwen3 with norms on queries and keys, else Llama."""
    values = model.config.to_dict()
    family = "Qwen3" if values.pop("use_qk_norm") else "Llama"
    theta = values.pop("rope_theta")
    kept = {key: value for key, value in values.items() if value is not None}
    return kept | {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        "hidden_act": "silu",
        "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "dtype": str(dtype).removeprefix("torch."),
    }
