"""Adapters as files: kilobytes that turn one base into another model.

An adapter is a folder in the layout of `peft`, which loads it as it is: `adapter_config.json` with
r, lora_alpha and target_modules, and `adapter_model.safetensors` with A and B of every layer, here
in 16 bits. The header of the latter also holds the lineage (base, method, data, seed, measured
values). Left out: what this course's LoRA does not have; a file that needs it is refused.

Source: `peft`'s documentation, "Checkpoint format".
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_utils.training.lora import add_adapter, lora_layers, target_layers

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
FOREIGN = (  # keys of other forms of LoRA: each must be absent, empty or false
    *("use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern"),
    *("modules_to_save", "layers_to_transform", "trainable_token_indices"),
)


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


def save_adapter(
    model: nn.Module, folder: Path | str, lineage: dict, name: str = "default"
) -> None:
    """Write one adapter as a folder: its weights in 16 bits, its config, and its lineage."""
    state = adapter_state(model, name)
    layers = {p: layer for p, layer in lora_layers(model).items() if name in layer.alpha}
    first = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": lineage.get("base"),
        "r": first.lora_A[name].out_features,
        "lora_alpha": first.alpha[name],
        "target_modules": sorted({path.split(".")[-1] for path in layers}),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    weights = {key: value.to("cpu", torch.bfloat16) for key, value in state.items()}
    partial = folder / "adapter_model.partial"
    save_file(weights, partial, {"format": "pt", "lineage": json.dumps(lineage)})
    partial.replace(folder / WEIGHTS_FILE)


def read_adapter(folder: Path | str) -> tuple[dict, dict, dict[str, Tensor]]:
    """Config, lineage (empty if the file has none) and weights of a saved adapter.

    Raises ValueError for a folder that is no adapter, or one of a form that is not supported.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS_FILE, "pt") as file:
            lineage = json.loads((file.metadata() or {}).get("lineage", "{}"))
            weights = {key: file.get_tensor(key) for key in file.keys()}
        targets, _ = list(config["target_modules"]), (config["r"], config["lora_alpha"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is not a readable adapter ({error!r})") from None
    foreign = [key for key in FOREIGN if config.get(key)]
    foreign += ["bias"] if config.get("bias", "none") != "none" else []
    foreign += ["target_modules"] if isinstance(config["target_modules"], str) else []
    if config.get("peft_type", "LORA") != "LORA" or foreign:
        found = {key: config.get(key) for key in foreign or ["peft_type"]}
        raise ValueError(f"{folder} has {found}: plain LoRA with a list of layers is supported")
    return config | {"target_modules": targets}, lineage, weights


def load_adapter(model: nn.Module, folder: Path | str, name: str = "default") -> dict:
    """Add a saved adapter to a model, frozen and active; returns its lineage.

    Raises ValueError for a folder that is no adapter, or one made for another model, with the name
    of the weight that does not fit; the model is then as it was.
    """
    config, lineage, saved = read_adapter(folder)
    rank, alpha, targets = (config[key] for key in ("r", "lora_alpha", "target_modules"))
    _check_fit(model, saved, rank, targets, folder)
    for weight in add_adapter(model, rank, alpha, targets, name):
        weight.requires_grad_(False)
    with torch.no_grad():
        for key, weight in adapter_state(model, name).items():
            weight.copy_(saved[key])
    return lineage


def _check_fit(model: nn.Module, saved: dict, rank: int, targets: list, folder: Path | str) -> None:
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
            raise ValueError(f"{folder} was made for another model: {found}")
