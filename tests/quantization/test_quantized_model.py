"""Whole models in few bits: the same numbers as the dequantized model, fewer bytes, one recipe."""

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from course_utils.accounting.ledger import ledger_rows
from course_utils.data.assets import AssetMissing
from course_utils.data.tokenizer import course_tokenizer
from course_utils.generation import generate
from course_utils.models import shipped
from course_utils.models.checkpoints import save_checkpoint
from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM
from course_utils.moe import MoEConfig
from course_utils.quantization import (
    PackedWeight,
    QuantizationArgs,
    QuantizedLinear,
    bits_per_weight,
    count_weights,
    explain,
    install_weights,
    load_quantized,
    packed_layers,
    packed_weights,
    quantizable,
    quantize_model,
    save_quantized,
    weight_bytes,
)
from course_utils.quantization.fast_decode import FastDecoder
from course_utils.quantization.fused import FusedAttention, FusedMLP, fuse
from course_utils.quantization.perplexity import Protocol, perplexity

INT8, INT4 = QuantizationArgs(8), QuantizationArgs(4, True, "group", 32)
INT2 = QuantizationArgs(2, False, "group", 16)
MIXED = {"lm_head": INT8, "*.mlp.*": INT4, "*.o_proj": None, "*": QuantizationArgs(6)}
SIZES = dict(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=64,
)
PARTS = {"gate": "w_gate_EDF", "up": "w_up_EDF", "down": "w_down_EFD"}


def model(kind: str = "dense", **changes) -> DecoderLM:
    """A small model with random weights, large enough that layers matter."""
    extra = {}
    if kind == "experts":
        extra["moe"] = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    built = DecoderLM(ModelConfig(**SIZES | extra | changes), seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in built.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
            else:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return built


def dequantized(plain: DecoderLM, quantized: DecoderLM) -> DecoderLM:
    """The plain model with the weights that the codes stand for."""
    modules = dict(plain.named_modules())
    for name, weight in packed_weights(quantized).items():
        if name in modules:
            modules[name].weight.data.copy_(weight.dequantize())
        else:
            owner, _, part = name.rpartition(".")
            getattr(modules[owner], PARTS[part]).data.copy_(weight.dequantize().mT)
    return plain


@pytest.fixture
def ids():
    return torch.randint(96, (2, 20), generator=torch.Generator().manual_seed(0))


def logits(model, ids):
    with torch.no_grad():
        return model(ids)


def decoded(model, ids):
    """Logits of every position of the first sequence, token by token through a cache."""
    cache = model.new_cache()
    with torch.no_grad():
        return torch.cat([model(token.view(1, 1), cache) for token in ids[0]], dim=1)


@pytest.mark.parametrize("recipe", [INT8, INT4, INT2, MIXED], ids=["int8", "int4", "int2", "mixed"])
@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_a_quantized_model_computes_what_the_dequantized_one_does(kind, recipe, ids):
    quantized = quantize_model(model(kind), recipe)
    expected = logits(dequantized(model(kind), quantized), ids)
    exact = quantize_model(model(kind), recipe, "dequantize") if recipe is not MIXED else quantized
    error = (logits(quantized, ids) - expected).norm() / expected.norm()
    assert error < (0.1 if kind == "experts" else 0.03)  # a token may go to another expert
    if recipe is not MIXED:
        torch.testing.assert_close(logits(exact, ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("recipe", [INT8, INT4, INT2], ids=["int8", "int4", "int2"])
def test_decoding_token_by_token_gives_the_logits_of_the_whole(recipe, tied, ids):
    quantized = quantize_model(model(tie_word_embeddings=tied), recipe)
    expected = logits(dequantized(model(tie_word_embeddings=tied), quantized), ids[:1])
    assert (decoded(quantized, ids) - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("recipe", [INT8, INT4, {"lm_head": INT8, "*": INT4}])
def test_the_fused_and_the_fast_way_give_the_same_logits(recipe, qk_norm, ids):
    quantized = quantize_model(model(use_qk_norm=qk_norm), recipe)
    expected = logits(dequantized(model(use_qk_norm=qk_norm), quantized), ids[:1])
    plain = logits(quantized, ids[:1])
    fast = FastDecoder(quantized)
    assert all(isinstance(layer.self_attn, FusedAttention) for layer in quantized.model.layers)
    assert all(isinstance(layer.mlp, FusedMLP) for layer in quantized.model.layers)
    torch.testing.assert_close(logits(fast.model, ids[:1]), plain, rtol=1e-4, atol=1e-3)
    assert (decoded(fast, ids) - expected).norm() < 0.03 * expected.norm()


def test_the_fast_way_takes_single_tokens_alone(ids, monkeypatch):
    fast = FastDecoder(quantize_model(model(), INT8))
    steps = []
    step = FastDecoder.step
    monkeypatch.setattr(FastDecoder, "step", lambda *given: steps.append(1) or step(*given))
    generate(fast, ids[:1], 5)
    assert len(steps) == 4  # the first of five comes from the prompt
    generate(fast, ids, 3)
    assert len(steps) == 4  # two sequences: the model's own layers


def test_the_fast_way_follows_a_prompt_in_the_same_cache(ids):
    quantized = quantize_model(model(), INT8)
    whole, fast = logits(quantized, ids[:1]), FastDecoder(quantized)
    cache = fast.new_cache()
    with torch.no_grad():
        fast(ids[:1, :-1], cache)
        last = fast(ids[:1, -1:], cache)
    assert cache.length == ids.shape[1]
    assert (last[:, 0] - whole[:, -1]).norm() < 0.03 * whole[:, -1].norm()


def test_the_fast_way_says_what_it_does_not_cover():
    with pytest.raises(ValueError, match="layer 0 has FusedAttention and MoE: FastDecoder needs"):
        FastDecoder(quantize_model(model("experts"), INT8))
    with pytest.raises(ValueError, match="layer 0 has GroupedQueryAttention and MLP"):
        FastDecoder(model())
    with pytest.raises(ValueError, match="the head is not quantized: give 'lm_head'"):
        FastDecoder(quantize_model(model(), {"lm_head": None, "*": INT8}))
    with pytest.raises(ValueError, match="layer 0: quantize o_proj and down_proj"):
        FastDecoder(quantize_model(model(), {"*.o_proj": None, "*": INT8}))
    own = DecoderLM(ModelConfig(**SIZES), norm=lambda x, weight, eps: x * weight)
    with pytest.raises(ValueError, match="layer 0 has functions of its own"):
        FastDecoder(quantize_model(own, INT8))


def test_parts_of_different_schemes_are_not_joined():
    quantized = fuse(quantize_model(model(), {"*.v_proj": INT4, "*": INT8}))
    assert not any(isinstance(layer.self_attn, FusedAttention) for layer in quantized.model.layers)
    assert all(isinstance(layer.mlp, FusedMLP) for layer in quantized.model.layers)


def test_the_first_pattern_decides_and_the_rest_stays_as_it_was():
    quantized = quantize_model(model(), MIXED)
    schemes = {name: weight.args for name, weight in packed_weights(quantized).items()}
    assert schemes["lm_head"] == INT8
    assert schemes["model.layers.1.mlp.down_proj"] == INT4
    assert schemes["model.layers.0.self_attn.k_proj"] == QuantizationArgs(6)
    assert "model.layers.0.self_attn.o_proj" not in schemes
    assert torch.equal(
        quantized.model.layers[0].self_attn.o_proj.weight,
        model().model.layers[0].self_attn.o_proj.weight,
    )


def test_names_are_told_and_patterns_that_fit_nothing_are_refused():
    names = quantizable(model("experts"))
    assert names["model.layers.0.mlp.experts.gate"].shape == (4, 32, 64)
    assert names["model.layers.0.mlp.experts.down"].shape == (4, 64, 32)
    assert "model.embed_tokens" not in names  # tied: it is the head
    assert "model.embed_tokens" in quantizable(model(tie_word_embeddings=False))
    with pytest.raises(ValueError, match=r"called '\*.ffn.\*': names are like model.layers.0"):
        quantize_model(model(), {"*.ffn.*": INT4})
    with pytest.raises(ValueError, match="experts are quantized whole"):
        quantize_model(model("experts"), {"*.experts.up": INT4})
    with pytest.raises(ValueError, match="no such weight"):
        install_weights(model(), {"model.layers.7": PackedWeight.quantize(torch.ones(2, 2), INT8)})


def test_a_weight_that_is_not_finite_is_refused_by_its_name():
    broken = model()
    broken.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj holds nan in row 3"):
        quantize_model(broken, INT8)
    assert not packed_layers(broken)  # nothing was replaced


def test_bytes_in_memory_are_those_of_the_bits():
    quantized = quantize_model(model(), INT8)
    weights = {name: weight.numel() for name, weight in quantizable(model()).items()}
    rows = sum(weight.shape[0] for weight in quantizable(model()).values())
    norms = sum(weight.nbytes for weight in model().parameters() if weight.dim() == 1)
    assert weight_bytes(quantized) == sum(weights.values()) + 2 * rows + norms  # the table once
    assert weight_bytes(model()) == 4 * sum(weights.values()) + norms
    assert weight_bytes(fuse(quantized)) == weight_bytes(quantize_model(model(), INT8))


@pytest.mark.parametrize("kind", ["dense", "experts"])
@pytest.mark.parametrize("recipe", [INT8, INT4, MIXED], ids=["int8", "int4", "mixed"])
def test_a_quantized_model_has_as_many_numbers_as_before(kind, recipe):
    plain, quantized = model(kind), quantize_model(model(kind), recipe)
    assert count_weights(quantized) == count_weights(plain) == plain.count_parameters()
    assert bits_per_weight(plain) == 32
    assert bits_per_weight(quantized) == weight_bytes(quantized) * 8 / plain.count_parameters()


def test_the_ledger_prices_weights_at_the_bits_that_a_model_has():
    quantized = quantize_model(shipped("dense"), INT8)
    row = next(row for row in ledger_rows() if row.model == "dense")
    assert row.weight_bytes(bits_per_weight(quantized)) == weight_bytes(quantized)
    assert row.weight_bytes() == weight_bytes(shipped("dense"))


def test_eight_bits_cost_less_than_a_fifth_of_a_percent_of_perplexity():
    """On held-out English and code, a few windows; chapter 13 reads more."""
    protocol = Protocol(("english", "code"), windows=3)
    try:
        before = perplexity(shipped("dense"), course_tokenizer(), protocol).perplexity
    except AssetMissing as missing:
        pytest.skip(str(missing))
    quantized = quantize_model(shipped("dense"), INT8)
    after = perplexity(quantized, course_tokenizer(), protocol).perplexity
    assert abs(after / before - 1) < 0.002


def test_each_layer_tells_its_kernel_and_the_reason():
    rows = {row["name"]: row for row in explain(quantize_model(model("experts"), MIXED))}
    assert rows["lm_head"]["kernel"] == "int8" and rows["lm_head"]["why"] == ""
    assert rows["model.layers.0.mlp.experts.gate.3"]["kernel"] == "int4"
    q = rows["model.layers.0.self_attn.q_proj"]
    assert q["kernel"] == "dequantize" and "8 symmetric bits" in q["why"]
    assert q["bits_per_weight"] == 6 + 16 / 64


@pytest.mark.parametrize("kind", ["dense", "experts"])
@pytest.mark.parametrize("recipe", [INT8, INT4, INT2, MIXED], ids=["int8", "int4", "int2", "mixed"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_file_is_as_small_as_its_bits_and_gives_the_same_logits(
    tmp_path, kind, recipe, tied, ids
):
    path = tmp_path / "small.safetensors"
    quantized = quantize_model(model(kind, tie_word_embeddings=tied), recipe)
    written = save_quantized(quantized, path, {"recipe": "test"}, torch.float32)
    stored = sum(tensor.nbytes for tensor in load_file(path).values())
    packed = sum(weight.nbytes() for weight in packed_weights(quantized).values())
    names = set(packed_weights(quantized)) | {"model.embed_tokens"}
    other = sum(
        tensor.nbytes
        for name, tensor in model(kind, tie_word_embeddings=tied).state_dict().items()
        if name.rpartition(".")[0] not in names and ".w_" not in name and name != "lm_head.weight"
    )
    assert written == path.stat().st_size and stored == packed + other
    loaded = load_quantized(path)
    assert torch.equal(logits(loaded, ids), logits(quantized, ids))
    assert weight_bytes(loaded) == weight_bytes(quantized)


def test_the_shipped_model_in_two_bits_is_an_eighth_of_its_file(tmp_path):
    quantized = quantize_model(shipped("dense"), QuantizationArgs(2, True, "group", 64))
    written = save_quantized(quantized, tmp_path / "two.safetensors", {})
    weights = sum(weight.numel() for weight in quantizable(shipped("dense")).values())
    assert written < (2 + 16 / 64) / 8 * weights + 40_000  # header and norms


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path):
    path = tmp_path / "x.safetensors"
    save_quantized(quantize_model(model(), INT8), path, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"x\.safetensors is not a readable checkpoint"):
        load_quantized(path)
    save_checkpoint(model(), path, {})
    with pytest.raises(ValueError, match="no quantized weights: use load_checkpoint"):
        load_quantized(path)


def test_the_state_dict_holds_packed_bytes():
    state = quantize_model(model(), INT2).state_dict()
    packed = state["model.layers.0.mlp.up_proj.weight_packed"]
    assert packed.dtype == torch.uint8 and packed.numel() == 128 * 64 // 4
    assert not any(name.endswith("_proj.weight") for name in state)


def test_gradients_reach_the_input_and_biases_are_added():
    linear = torch.nn.Linear(32, 16)
    layer = QuantizedLinear.quantize(linear, INT8)
    x_TI = torch.randn(3, 32, requires_grad=True)
    layer(x_TI).sum().backward()
    torch.testing.assert_close(x_TI.grad, layer.weight.sum(0).expand(3, -1))
    with torch.no_grad():
        difference = layer(x_TI) - (x_TI @ layer.weight.T + linear.bias)
    assert difference.abs().max() < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_moved_model_uses_a_kernel_of_its_device(ids):
    quantized = quantize_model(model(), INT8)
    expected = logits(quantized, ids)
    moved = quantized.to("cuda")
    assert {row["kernel"] for row in explain(moved)} == {"dequantize"}
    got = logits(moved, ids.cuda()).cpu()
    assert (got - expected).norm() < 0.03 * expected.norm()


def test_moving_keeps_a_shared_table_shared():
    quantized = quantize_model(model(), INT8).to(torch.bfloat16)
    assert quantized.model.embed_tokens.table is quantized.lm_head
    assert quantized.lm_head.kernel.scale_O.dtype == torch.bfloat16
    meta = quantize_model(model(), INT8).to("meta")
    assert meta.lm_head.kernel.name == "dequantize"


class Operations(TorchDispatchMode):
    """Counts the operations that PyTorch is asked for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations_per_layer(make) -> float:
    """Operations of one decoding step, for each layer that a model has more."""
    counts = []
    for layers in (2, 6):
        decoder = make(model(num_hidden_layers=layers, use_qk_norm=False))
        cache = decoder.new_cache(capacity=8)
        with torch.no_grad(), Operations() as operations:
            decoder(torch.tensor([[5]]), cache)
        counts.append(operations.count)
    return (counts[1] - counts[0]) / 4


def test_the_fast_way_asks_for_few_operations():
    plain = operations_per_layer(lambda one: quantize_model(one, INT8))
    fused = operations_per_layer(lambda one: fuse(quantize_model(one, INT8)))
    fast = operations_per_layer(lambda one: FastDecoder(quantize_model(one, INT8)))
    assert fused < plain - 10
    assert fast < 36 and fast < 0.4 * plain
