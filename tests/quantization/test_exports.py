"""Exported models: their files are small, read back, and say what cannot be written."""

import json

import pytest
import torch
from safetensors.torch import load_file

from course_utils.data.tokenizer import course_tokenizer
from course_utils.formats import read_gguf
from course_utils.models import shipped
from course_utils.quantization import QuantizationArgs, packed_weights, quantize_model
from course_utils.quantization.compressed_tensors import save_compressed_tensors
from course_utils.quantization.gguf_export import save_gguf, tensor_names
from course_utils.quantization.packing import from_int32

INT4 = QuantizationArgs(4, False, "group", 64)


def test_a_gguf_file_holds_every_weight_in_its_type(tmp_path):
    model, path = shipped("dense"), tmp_path / "dense.gguf"
    written = save_gguf(model, course_tokenizer(), path, "Q4_0")
    file, modules = read_gguf(path), dict(model.named_modules())
    assert written == path.stat().st_size < 0.2 * sum(w.nbytes for w in model.parameters())
    assert list(file.entries) == list(tensor_names(model.config))
    for name, source in tensor_names(model.config).items():
        weight = modules[source].weight.detach()
        kind = "F32" if weight.dim() == 1 else "Q8_0" if name == "token_embd.weight" else "Q4_0"
        assert file.entries[name].kind.name == kind
        assert (file.tensor(name) - weight).abs().max() <= weight.abs().max() / 7
    assert file.metadata["general.architecture"] == "qwen3"
    assert file.metadata["tokenizer.ggml.tokens"][0] == "<|endoftext|>"
    assert file.metadata["qwen3.attention.head_count_kv"] == model.config.num_key_value_heads


def test_a_quantized_model_is_written_as_what_its_codes_stand_for(tmp_path):
    quantized = quantize_model(shipped("dense"), {"lm_head": None, "*": INT4})
    save_gguf(quantized, course_tokenizer(), tmp_path / "q.gguf", "F16")
    expected = quantized.model.layers[0].mlp.up_proj.weight
    torch.testing.assert_close(
        read_gguf(tmp_path / "q.gguf").tensor("blk.0.ffn_up.weight"), expected, rtol=1e-3, atol=1e-6
    )


def test_types_and_models_that_are_not_written_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown type 'Q5_0': choose one of F16, Q4_0"):
        save_gguf(shipped("dense"), course_tokenizer(), tmp_path / "x.gguf", "Q5_0")
    for save in (
        lambda: save_gguf(shipped("moe"), course_tokenizer(), tmp_path / "x.gguf"),
        lambda: save_compressed_tensors(shipped("moe"), tmp_path),
    ):
        with pytest.raises(ValueError, match="only dense models with grouped-query attention"):
            save()
    with pytest.raises(ValueError, match="no layer is quantized: call quantize_model first"):
        save_compressed_tensors(shipped("dense"), tmp_path)


def test_a_folder_of_compressed_tensors_has_the_layout_and_the_codes(tmp_path):
    quantized = quantize_model(shipped("dense"), {"*.mlp.*": INT4, "*": QuantizationArgs(8)})
    written = save_compressed_tensors(quantized, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert written == (tmp_path / "model.safetensors").stat().st_size
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    groups = config["quantization_config"]["config_groups"].values()
    assert {group["weights"]["num_bits"] for group in groups} == {4, 8}
    weights = packed_weights(quantized)
    named = {name for group in groups for name in group["targets"]}
    assert named == {name for name in weights if name != "lm_head"}
    assert "lm_head.weight" not in tensors  # tied: the table is written once, in full
    for name in named:
        words, weight = tensors[f"{name}.weight_packed"], weights[name]
        columns, bits = weight.shape[1], weight.args.num_bits
        assert words.dtype == torch.int32
        assert torch.equal(from_int32(words, bits, columns), weight.packed)
        zeros = tensors.get(f"{name}.weight_zero_point")
        assert (zeros is None) == weight.args.symmetric
