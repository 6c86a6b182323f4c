"""Checkpoints: written and read back, and every broken file told by name."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from course_utils.models import DecoderLM, ModelConfig, load_checkpoint, save_checkpoint, shipped
from course_utils.models.checkpoints import read_header

LINEAGE = {"recipe": "a test", "seed": 3}


def model_of(tied: bool = True) -> DecoderLM:
    config = ModelConfig(11, 8, 12, 2, 4, 2, 4, 32, tie_word_embeddings=tied)
    return DecoderLM(config, seed=3)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(model_of(), path, LINEAGE)
    return path


def header_of(path) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in read_header(path).items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_round_trip(tmp_path, dtype, tied):
    model, path = model_of(tied), tmp_path / "model.safetensors"
    save_checkpoint(model, path, LINEAGE, dtype)
    again = load_checkpoint(path)
    assert again.config == model.config and not again.training
    assert read_header(path) == {"config": model.config.to_dict(), "lineage": LINEAGE}
    assert (again.lm_head.weight is again.model.embed_tokens.weight) is tied
    for name, weight in model.state_dict().items():
        got = again.state_dict()[name]
        assert got.dtype == torch.float32
        assert torch.equal(got, weight.to(dtype).float()), name
    stored = load_file(path)
    assert ("lm_head.weight" in stored) is not tied
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_other_precision_and_parts(saved):
    def no_rope(x, cos, sin):
        return x

    ids = torch.tensor([[1, 2, 3]])
    plain, other = load_checkpoint(saved), load_checkpoint(saved, torch.float64, rope=no_rope)
    assert other.lm_head.weight.dtype == torch.float64
    with torch.no_grad():
        assert (plain(ids) - other(ids)).abs().max() > 1e-4


def test_loaded_weights_can_be_trained(saved):
    model = load_checkpoint(saved)
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert len(list(model.parameters())) == len(list(model_of().parameters()))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=f"{re.escape(str(saved))} is not a readable checkpoint"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "content", [b"GGUF" + bytes(100), b"PK\x03\x04" + bytes(500), b"\xff" * 64]
)
def test_not_a_safetensors_file(saved, content):
    saved.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(saved))} is not a readable checkpoint"):
        load_checkpoint(saved)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} is not a readable"):
            load_checkpoint(path)


def test_foreign_header(saved):
    tensors = load_file(saved)
    save_file(tensors, saved)
    with pytest.raises(ValueError, match="'config' in its header: not a course checkpoint"):
        load_checkpoint(saved)
    save_file(tensors, saved, {"config": "{", "lineage": "{}"})
    with pytest.raises(ValueError, match=re.escape(str(saved))):
        load_checkpoint(saved)


def test_config_that_cannot_be(saved):
    header = read_header(saved)
    config = json.dumps(header["config"] | {"num_attention_heads": 3})
    save_file(load_file(saved), saved, {"config": config, "lineage": "{}"})
    with pytest.raises(ValueError, match="does not divide"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.pop("model.norm.weight"),
            r"'model.norm.weight' has shape None in the file.*needs \(8,\)",
        ),
        (
            lambda t: t.pop("model.embed_tokens.weight"),
            r"'model.embed_tokens.weight' has shape None in the file.*needs \(11, 8\)",
        ),
        (
            lambda t: t.update(extra=torch.zeros(2)),
            r"'extra' has shape \(2,\) in the file, but the config's model needs None",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(9)}),
            r"'model.norm.weight' has shape \(9,\) in the file.*needs \(8,\)",
        ),
    ],
    ids=["missing", "missing table", "extra", "misshapen"],
)
def test_weights_that_do_not_fit(saved, change, words):
    header, tensors = header_of(saved), load_file(saved)
    change(tensors)
    save_file(tensors, saved, header)
    with pytest.raises(ValueError, match=words) as caught:
        load_checkpoint(saved)
    assert str(saved) in str(caught.value)


def test_unknown_shipped_checkpoint_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no shipped checkpoint 'moe9': there are .*dense"):
        shipped("moe9")
