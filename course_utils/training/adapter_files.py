"""Adapters as files: kilobytes that turn one base into another model.

The weights are stored in 16 bits under the names that `peft` uses, with r, alpha, target modules
and lineage (base, method, data, seed, measured values) in the header of the safetensors file.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_utils.training.lora import add_adapter, lora_layers, target_layers


def adapter_state(model: nn.Module, name: str = "default") -> dict[str, Tensor]:
    """The weights of one adapter, under the names that `peft` gives them."""
    state = {}
    for path, layer in lora_layers(model).items():
        if name in layer.alpha:
            for part in ("lora_A", "lora_B"):
                weight = getattr(layer, part)[name].weight
                state[f"base_model.model.{path}.{part}.weight"] = weight.detach().contiguous()
    if not state:
        raise ValueError(f"this model has no adapter {name!r}")
    return state


def save_adapter(model: nn.Module, path: Path | str, lineage: dict, name: str = "default") -> None:
    """Write one adapter: its weights in 16 bits, and r, alpha, targets, lineage in the header."""
    layers = {p: layer for p, layer in lora_layers(model).items() if name in layer.alpha}
    state = {
        key: value.to("cpu", torch.bfloat16) for key, value in adapter_state(model, name).items()
    }
    first = next(iter(layers.values()))
    config = {
        "r": first.lora_A[name].out_features,
        "lora_alpha": first.alpha[name],
        "target_modules": sorted({path.split(".")[-1] for path in layers}),
    }
    header = {"format": "pt", "config": json.dumps(config), "lineage": json.dumps(lineage)}
    partial = Path(path).with_suffix(".partial")
    save_file(state, partial, header)
    partial.replace(path)


def load_adapter(model: nn.Module, path: Path | str, name: str = "default") -> dict:
    """Add a saved adapter to a model, frozen and active; returns its lineage.

    Raises ValueError for a file that is no adapter, or one made for another model, with the name of
    the weight that does not fit; the model is then as it was.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            saved = {key: file.get_tensor(key) for key in file.keys()}
        config, lineage = json.loads(header["config"]), json.loads(header["lineage"])
        rank, alpha, targets = (config[key] for key in ("r", "lora_alpha", "target_modules"))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a readable adapter ({error})") from None
    _check_fit(model, saved, rank, targets, path)
    for weight in add_adapter(model, rank, alpha, targets, name):
        weight.requires_grad_(False)
    with torch.no_grad():
        for path_, layer in lora_layers(model).items():
            for part in ("lora_A", "lora_B"):
                key = f"base_model.model.{path_}.{part}.weight"
                if key in saved:
                    getattr(layer, part)[name].weight.copy_(saved[key])
    return lineage


def _check_fit(model: nn.Module, saved: dict, rank: int, targets: list, path: Path | str) -> None:
    """ValueError unless the saved matrices are exactly those that `targets` name in the model."""
    sizes = {}
    for place, layer in target_layers(model, targets).items():
        outputs, inputs = layer.weight.shape
        sizes[f"base_model.model.{place}.lora_A.weight"] = (rank, inputs)
        sizes[f"base_model.model.{place}.lora_B.weight"] = (outputs, rank)
    for key in sorted(sizes.keys() | saved.keys()):
        shape = tuple(saved[key].shape) if key in saved else None
        if shape != sizes.get(key):
            found = f"{key} has shape {shape}, and this model needs {sizes.get(key)}"
            raise ValueError(f"{path} was made for another model: {found}")
