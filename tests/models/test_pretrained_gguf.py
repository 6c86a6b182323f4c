"""From GGUF to the course's model: names, permuted rows, tokenizer; then the real SmolLM2."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from course_utils.data.assets import ASSETS, AssetMissing, asset_path, available
from course_utils.generation import generate
from course_utils.layers import apply_rope
from course_utils.models import DecoderLM, ModelConfig, pretrained
from course_utils.models.pretrained import from_gguf, hub_name, smollm2

CONFIG = ModelConfig(
    vocab_size=6,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    max_position_embeddings=32,
    rms_norm_eps=1e-5,
    rope_theta=100.0,
    tie_word_embeddings=False,
    use_qk_norm=False,
)
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass
class FakeFile:
    """What `read_gguf` gives, without a file."""

    metadata: dict[str, Any]
    entries: dict[str, torch.Tensor]
    path: Path = field(default=Path("small.gguf"))

    def tensor(self, name: str) -> torch.Tensor:
        return self.entries[name]


def as_converted(model: DecoderLM) -> FakeFile:
    """The model as llama.cpp's converter writes it: its names, query and key rows interleaved."""
    tops = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    entries = {}
    for name, weight in model.state_dict().items():
        name = name.removesuffix(".weight")
        if name in tops:
            entries[f"{tops[name]}.weight"] = weight.clone()
            continue
        _, _, layer, part = name.split(".", 3)
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = len(weight) // 4
            weight = weight.view(heads, 2, 2, 8).swapaxes(1, 2).reshape(weight.shape)
        entries[f"blk.{layer}.{NAMES[part]}.weight"] = weight.clone()
    metadata = {
        "general.architecture": "llama",
        "llama.embedding_length": 8,
        "llama.feed_forward_length": 12,
        "llama.block_count": 2,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.context_length": 32,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 100.0,
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<|end|>", "1", "2", "a", "b", "ab"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 0,
    }
    return FakeFile(metadata, entries)


def random_model() -> DecoderLM:
    model = DecoderLM(CONFIG).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


@pytest.fixture
def converted(monkeypatch) -> FakeFile:
    file = as_converted(random_model())
    monkeypatch.setattr(pretrained, "read_gguf", lambda path: file)
    return file


def test_a_converted_model_gives_its_logits_again(converted):
    loaded, ids = from_gguf("small.gguf"), torch.tensor([[1, 4, 2, 5, 3]])
    assert loaded.model.config == CONFIG and not loaded.model.training
    with torch.no_grad():
        assert torch.equal(loaded.model(ids), random_model()(ids))
    assert loaded.stop_ids == (0,)


def test_parts_reach_the_model(converted):
    calls = []

    def rope(x, cos, sin):
        calls.append(x.shape)
        return apply_rope(x, cos, sin)

    from_gguf("small.gguf", rope=rope).model(torch.tensor([[1, 2]]))
    assert len(calls) == 4


def test_the_tokenizer_splits_digits_first_and_knows_its_special_tokens(converted):
    tokenizer = from_gguf("small.gguf").tokenizer
    assert tokenizer.encode("abab12a<|end|>b") == [5, 5, 1, 2, 3, 0, 4]
    assert tokenizer.decode([5, 1, 0, 4]) == "ab1b"
    assert tokenizer.end_id == 0


def test_a_head_of_its_own_or_the_table(converted):
    del converted.entries["output.weight"]
    model = from_gguf("small.gguf").model
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("architecture", ["qwen3", None])
def test_another_architecture(converted, architecture):
    converted.metadata["general.architecture"] = architecture
    with pytest.raises(
        ValueError, match=rf"small.gguf holds a {architecture!r} model: only 'llama'"
    ):
        from_gguf("small.gguf")


@pytest.mark.parametrize(
    "key", ["llama.block_count", "llama.rope.freq_base", "tokenizer.ggml.merges"]
)
def test_missing_metadata_is_named(converted, key):
    del converted.metadata[key]
    with pytest.raises(ValueError, match=rf"small.gguf lacks the metadata .*{key.split('.')[-1]}"):
        from_gguf("small.gguf")


def test_another_pre_tokenizer(converted):
    converted.metadata["tokenizer.ggml.pre"] = "qwen2"
    with pytest.raises(ValueError, match=r"small\.gguf: pre-tokenizer 'qwen2': only 'smollm'"):
        from_gguf("small.gguf")


def test_missing_misshapen_and_unknown_tensors(converted):
    norm = converted.entries.pop("blk.1.ffn_norm.weight")
    with pytest.raises(ValueError, match=r"'model.layers.1.post_attention_layernorm.weight'.*None"):
        from_gguf("small.gguf")
    converted.entries["blk.1.ffn_norm.weight"] = norm[:3]
    with pytest.raises(ValueError, match=r"has shape \(3,\) in the file.*needs \(8,\)"):
        from_gguf("small.gguf")
    converted.entries["blk.0.ffn_gate_inp.weight"] = norm
    with pytest.raises(ValueError, match=r"'blk\.0\.ffn_gate_inp\.weight' is not part of a Llama"):
        from_gguf("small.gguf")


def test_names_are_those_of_transformers():
    assert hub_name("token_embd.weight") == "model.embed_tokens.weight"
    assert hub_name("blk.12.attn_q.weight") == "model.layers.12.self_attn.q_proj.weight"


def test_without_the_fetched_file(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    with pytest.raises(AssetMissing, match=r"SmolLM2.*course fetch"):
        smollm2()


def test_no_such_file_and_no_gguf(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        smollm2(tmp_path / "none.gguf")
    (tmp_path / "small.gguf").write_bytes(b"no model" * 10)
    with pytest.raises(ValueError, match="not a GGUF file"):
        smollm2(str(tmp_path / "small.gguf"))


needs_weights = pytest.mark.skipif(
    not available("smollm2"), reason="SmolLM2 has not been fetched (course fetch smollm2)"
)


@pytest.fixture(scope="module")
def smol():
    return smollm2()


@needs_weights
def test_smollm2_has_its_published_shape(smol):
    config = smol.model.config
    assert smol.model.count_parameters() == 134_515_008
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49_152)
    assert (config.num_attention_heads, config.num_key_value_heads) == (9, 3)
    assert config.rope_theta == 100_000 and config.tie_word_embeddings and not config.use_qk_norm
    assert smol.tokenizer.vocab_size == config.vocab_size


@needs_weights
def test_smollm2_answers(smol):
    ids = smol.chat_ids("What is the capital of France?")
    new = generate(smol.model, ids, 12, stop_ids=smol.stop_ids)[0].tolist()
    assert "Paris" in smol.tokenizer.decode(new)
    text = smol.tokenizer.inner.decode(ids[0].tolist(), skip_special_tokens=False)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert smol.tokenizer.inner.token_to_id("<|im_end|>") == smol.stop_ids[0]
    assert int((ids == smol.stop_ids[0]).sum()) == 2


@needs_weights
@pytest.mark.parametrize(
    "text", ["in 1945, 3.14", "巴黎🙂", "def f(x):\n\treturn x  # é", " \n\n  "]
)
def test_smollm2_tokens_round_trip_and_digits_stand_alone(smol, text):
    ids = smol.tokenizer.encode(text)
    assert smol.tokenizer.decode(ids) == text
    assert int(smol.tokenizer.token_bytes()[ids].sum()) == len(text.encode())
    for piece in smol.tokenizer.pieces(text):
        assert len(piece) == 1 or not re.search(r"\d", piece)


@needs_weights
@pytest.mark.parametrize("share", [1e-6, 0.001, 0.02, 0.1])
def test_smollm2_cut_short(tmp_path, share):
    path = tmp_path / "cut.gguf"
    with asset_path("smollm2").open("rb") as file:
        path.write_bytes(file.read(int(share * ASSETS["smollm2"].file_bytes)))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        smollm2(path)
