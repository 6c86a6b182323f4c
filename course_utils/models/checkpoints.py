"""Checkpoints of the course: safetensors with the config and the lineage in the header.

What ships is stored in bfloat16, half the bytes, and computed in float32; the routing bias of an
MoE layer, a sum of many small steps, keeps 32 bits. The names of the weights are those of
`transformers` (stacked experts have the course's); the header's metadata holds `config` (JSON) and
`lineage` (JSON: recipe, data, seed, measured losses), so that one file is enough to know what it
is.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM

SHIPPED = Path(__file__).parent / "shipped"


def save_checkpoint(
    model: DecoderLM, path: Path | str, lineage: dict, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write the model's weights in `dtype`, with its config and lineage; a tied head is left
    out."""
    tensors = {
        name: tensor.detach().to("cpu", kept_dtype(name, dtype)).contiguous()
        for name, tensor in model.state_dict().items()
        if not (name == "lm_head.weight" and model.config.tie_word_embeddings)
    }
    header = {
        "format": "pt",
        "config": json.dumps(model.config.to_dict()),
        "lineage": json.dumps(lineage),
    }
    partial = Path(path).with_suffix(".partial")
    save_file(tensors, partial, header)
    partial.replace(path)


def kept_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a weight where weights have `dtype`: at least 32 bits for a routing bias."""
    exact = name.endswith("e_score_correction_bias")
    return torch.promote_types(dtype, torch.float32) if exact else dtype


def read_header(path: Path | str) -> dict:
    """The `config` and `lineage` of a checkpoint, as dicts, without reading its weights."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
        return {key: json.loads(header[key]) for key in ("config", "lineage")}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}): fetch it again") from None
    except KeyError as error:
        raise ValueError(f"{path} has no {error} in its header: not a course checkpoint") from None


def load_checkpoint(path: Path | str, dtype: torch.dtype = torch.float32, **parts) -> DecoderLM:
    """The model of a checkpoint, ready to run. `parts` (norm, rope, attend, route,
    dispatch) go to `DecoderLM`.

    Raises ValueError for a missing, truncated or foreign file, naming it.
    """
    config = ModelConfig.from_dict(read_header(path)["config"])
    with torch.device("meta"):
        model = DecoderLM(config, **parts)
    with safe_open(path, "pt") as file:
        names = file.keys()
        tensors = {name: file.get_tensor(name).to(kept_dtype(name, dtype)) for name in names}
    install(model, tensors, path)
    return model.eval()


def install(model: DecoderLM, tensors: dict[str, torch.Tensor], source: Path | str) -> None:
    """Make `tensors` the model's weights; every name and shape must fit, or ValueError says
    which."""
    expected, tied = model.state_dict(), model.config.tie_word_embeddings
    if tied:  # the table is the head, whether or not the file has it twice
        expected.pop("lm_head.weight")
        tensors.pop("lm_head.weight", None)
    for name in sorted(expected.keys() | tensors.keys()):
        have, want = tensors.get(name), expected.get(name)
        if have is None or want is None or have.shape != want.shape:
            found, needed = (None if t is None else tuple(t.shape) for t in (have, want))
            raise ValueError(
                f"{source}: weight {name!r} has shape {found} in the file, but the config's model "
                f"needs {needed}"
            )
    if tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight


def shipped(name: str, **parts) -> DecoderLM:
    """A checkpoint that comes with the package, such as `shipped("dense")`."""
    path = SHIPPED / f"{name}.safetensors"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.safetensors")))
        raise ValueError(f"no shipped checkpoint {name!r}: there are {known}")
    return load_checkpoint(path, **parts)
