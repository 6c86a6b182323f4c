"""Counting from configs: how long the catalog takes, and one model beside `transformers`.

The peer builds the same model on the meta device, without memory, and sums `numel()`. A catalog of
40 models should take less than 50 ms; the first row says how often it fits into that.
"""

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from course_utils.accounting.catalog import catalog
from course_utils.accounting.spec import ModelSpec
from course_utils.display.timing import alternate, seconds

SIZE, LIMIT = 40, 0.050
NAME = "Qwen3-30B-A3B"


def count_catalog() -> int:
    """All parameters of all models, each read anew from its config."""
    specs = (ModelSpec.from_hf_config(entry.config) for entry in catalog().values())
    return sum(spec.count().total for spec in specs)


def count_twin() -> int:
    """The same for one model, through `transformers`."""
    config = {k: v for k, v in catalog()[NAME].config.items() if k != "model_type"}
    with torch.device("meta"):
        twin = AutoModelForCausalLM.from_config(CONFIG_MAPPING["qwen3_moe"](**config))
    return sum(weight.numel() for weight in twin.parameters())


def count_ours() -> int:
    """One model from its config."""
    return ModelSpec.from_hf_config(catalog()[NAME].config).count().total


def run() -> list[dict]:
    """Rows for `course bench accounting`."""
    assert count_ours() == count_twin()
    whole = min(seconds(count_catalog) for _ in range(20)) * SIZE / len(catalog())
    ours, theirs = alternate(count_ours, count_twin)
    return [
        row(f"catalogs of {SIZE} models in 50 ms", LIMIT / whole, 1.0, 1.0),
        row(f"{NAME}, counts/s", 1 / ours, 1 / theirs, 10.0),
    ]


def row(name: str, ours: float, peer: float, target: float) -> dict:
    """One line of the report: both sides, their ratio, and the ratio to reach."""
    return {"name": name, "ours": ours, "peer": peer, "ratio": ours / peer, "target": target}
