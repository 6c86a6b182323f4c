"""The decoder with latent attention and experts against DeepSeek-V3; what it keeps and weighs."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek

from course_utils.accounting.cache import cache_bytes, cache_elements, cache_elements_per_token
from course_utils.accounting.ledger import course_spec, ledger_row
from course_utils.attention import KVCache, LayeredCache, MLAConfig, YarnConfig, mla_absorbed
from course_utils.attention import mla_naive as naive_form
from course_utils.generation import generate, generate_greedy
from course_utils.layers import rms_norm
from course_utils.models import DecoderLM, ModelConfig, load_checkpoint, save_checkpoint
from course_utils.moe.families import moe_config
from course_utils.training import TrainingConfig, train

YARN = {"factor": 4.0, "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 1.0}
PUBLISHED = {
    "model_type": "deepseek_v3", "vocab_size": 53, "hidden_size": 24, "intermediate_size": 40,
    "moe_intermediate_size": 10, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "n_shared_experts": 1, "n_routed_experts": 8,
    "routed_scaling_factor": 2.5, "kv_lora_rank": 12, "q_lora_rank": 16, "qk_rope_head_dim": 4,
    "v_head_dim": 6, "qk_nope_head_dim": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3,
    "first_k_dense_replace": 1, "norm_topk_prob": True, "max_position_embeddings": 64,
    "tie_word_embeddings": False, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
}  # fmt: skip
DENSE = ModelConfig(53, 24, 40, 2, 4, 2, 8, 64)
LATENT = MLAConfig(12, 8, 4, 6)
SHAPES = {
    "MHA": replace(DENSE, num_key_value_heads=4),
    "GQA": DENSE,
    "MQA": replace(DENSE, num_key_value_heads=1, use_qk_norm=False),
    "MLA": replace(DENSE, mla=LATENT),
    "MLA, compressed queries, YaRN": replace(
        DENSE, mla=replace(LATENT, q_lora_rank=10, rope_scaling=YarnConfig(**YARN))
    ),
    "all full, spelled out": replace(DENSE, layer_types=("full_attention",) * 2),
}


def ours_of(published: dict) -> ModelConfig:
    """The course's config of a DeepSeek-V3 config."""
    names = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    names = {name: published[name] for name in names}
    scaling = YarnConfig.from_dict(YARN) if "rope_parameters" in published else None
    shared = set(published) & set(ModelConfig.__dataclass_fields__)
    return ModelConfig(
        **{name: published[name] for name in shared},
        head_dim=8,
        rope_theta=500.0,
        moe=moe_config(published),
        mla=MLAConfig(**names, rope_scaling=scaling),
    )


def in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the twin's norm and router compute in the model's precision: they round to float32."""

    def norm(self, x):
        return rms_norm(x, self.weight, self.variance_epsilon)

    monkeypatch.setattr(deepseek.DeepseekV3RMSNorm, "forward", norm)
    monkeypatch.setattr(torch, "float32", torch.float64)  # the router asks for it by name


def in_our_names(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ours = {}
    for name, tensor in theirs.items():
        stem, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            gate, up = tensor.mT.chunk(2, dim=-1)
            ours |= {f"{stem}.w_gate_EDF": gate, f"{stem}.w_up_EDF": up}
        elif last == "down_proj" and tensor.dim() == 3:
            ours[f"{stem}.w_down_EFD"] = tensor.mT
        else:
            ours[name] = tensor
    return {name: tensor.contiguous() for name, tensor in ours.items()}


@torch.no_grad()
def pair(published: dict, dtype: torch.dtype = torch.float32) -> tuple[DecoderLM, nn.Module]:
    """Ours and DeepSeek-V3 on the same random weights: norms and correction biases too."""
    values = {key: value for key, value in published.items() if key != "model_type"}
    rope = values.pop("rope_parameters", {"rope_type": "default"}) | {"rope_theta": 500.0}
    theirs = DeepseekV3ForCausalLM(DeepseekV3Config(**values, rope_parameters=rope))
    theirs.set_experts_implementation("eager")
    generator = torch.Generator().manual_seed(0)
    for name, weight in (*theirs.named_parameters(), *theirs.named_buffers()):
        if "inv_freq" not in name:
            noise = torch.randn(weight.shape, generator=generator)
            plain = weight.dim() == 1 and not name.endswith("bias")
            weight.copy_(1 + 0.3 * noise if plain else 0.2 * noise)
    ours = DecoderLM(ours_of(published))
    ours.load_state_dict(in_our_names(theirs.state_dict()))
    return ours.eval().to(dtype), theirs.eval().to(dtype)


def ids_of(batch: int, length: int) -> torch.Tensor:
    return torch.randint(53, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=["fp32", "fp64"]
)
@pytest.mark.parametrize(
    "changes",
    [{}, {"q_lora_rank": None}, {"rope_parameters": YARN | {"rope_type": "yarn"}}],
    ids=["V3", "queries not compressed", "YaRN"],
)
@torch.no_grad()
def test_the_logits_of_deepseek_v3(changes, dtype, tolerance, monkeypatch):
    ours, theirs = pair(PUBLISHED | changes, dtype)
    if dtype == torch.float64:
        in_full_precision(monkeypatch)
    ids = ids_of(3, 21)
    expected = theirs(ids).logits
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(ours(ids), expected, rtol=0, atol=tolerance)
    for lengths in ([5, 1, 3, 12], [1] * 21):
        cache = ours.new_cache(3)
        got = torch.cat([ours(part, cache) for part in ids.split(lengths, dim=1)], dim=1)
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("changes", [{}, {"rope_parameters": YARN | {"rope_type": "yarn"}}])
@torch.no_grad()
def test_the_greedy_text_of_deepseek_v3(changes):
    ours, theirs = pair(PUBLISHED | changes)
    prompt, options = ids_of(1, 6), {"do_sample": False, "max_new_tokens": 30}
    theirs.generation_config.eos_token_id = None
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0, 6:]
    assert len(set(expected.tolist())) > 3
    assert torch.equal(generate(ours, prompt, 30)[0], expected)
    assert torch.equal(generate_greedy(ours, prompt[0], 30), expected)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_nothing(side):
    ours, _ = pair(PUBLISHED)
    ids, lengths = ids_of(3, 9), (9, 5, 1)
    mask = torch.zeros_like(ids)
    for row, length in zip(mask, lengths, strict=True):
        row[slice(9 - length, None) if side == "left" else slice(length)] = 1
    cache = ours.new_cache(3)
    parts = [ours(ids[:, :7], cache, mask[:, :7]), ours(ids[:, 7:8], cache, mask[:, :8])]
    parts.append(ours(ids[:, 8:], cache, mask))
    for got in (ours(ids, attention_mask=mask), torch.cat(parts, dim=1)):
        for n in range(3):
            real = mask[n].bool()
            alone = ours(ids[n, real][None])[0]
            torch.testing.assert_close(got[n, real], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 7, 30])
@pytest.mark.parametrize("name", list(SHAPES))
def test_weights_and_cache_are_those_of_accounting(name, tokens):
    config, batch = SHAPES[name], 3
    model, spec = DecoderLM(config), course_spec(config.to_dict())
    assert not spec.not_modelled
    assert model.count_parameters() == ledger_row("07", name, config.to_dict(), 0.0).parameters
    cache = model.new_cache(batch, 40)
    with torch.no_grad():
        model(ids_of(batch, tokens), cache)
    assert cache.elements(tokens) == cache_elements(spec, tokens)
    assert cache.bytes() == cache_bytes(spec, tokens, bits=32, sequences=batch)
    assert cache.elements_per_token() == cache_elements_per_token(spec)
    assert cache.bytes_per_token() == 4 * cache_elements_per_token(spec)


def test_only_models_of_plain_attention_take_the_dense_cache():
    kinds = {name: type(DecoderLM(config).new_cache()) for name, config in SHAPES.items()}
    assert kinds["GQA"] is kinds["MQA"] is kinds["MHA"] is KVCache
    assert kinds["MLA"] is kinds["all full, spelled out"] is LayeredCache


def test_both_caches_give_the_same_text():
    plain, listed = (DecoderLM(SHAPES[name]).eval() for name in ("GQA", "all full, spelled out"))
    prompt = ids_of(2, 5)
    assert torch.equal(generate(plain, prompt, 12), generate(listed, prompt, 12))


def test_the_learners_forms_are_the_ones_that_run():
    calls = []

    def counting(form):
        return lambda *given: calls.append(form.__name__) or form(*given)

    parts = {"naive": counting(naive_form), "absorbed": counting(mla_absorbed)}
    generate(DecoderLM(SHAPES["MLA"], latent=parts), ids_of(1, 5), 3)
    assert calls == ["mla_naive"] * 2 + ["mla_absorbed"] * 4  # a prefill, then two tokens; 2 layers


def test_it_trains_and_comes_back_from_a_checkpoint(tmp_path):
    model = DecoderLM(SHAPES["MLA, compressed queries, YaRN"])
    stream = torch.arange(2000) % 7
    config = TrainingConfig(steps=80, batch=4, length=16, peak_learning_rate=1e-2, warmup_steps=3)
    train(model, stream, config)
    model.eval()
    with torch.no_grad():
        guess = model(stream[None, :20]).argmax(-1)[0]
    assert torch.equal(guess[8:], stream[9:21])
    save_checkpoint(model, tmp_path / "latent.safetensors", {}, torch.float32)
    again = load_checkpoint(tmp_path / "latent.safetensors")
    assert again.config == model.config
    with torch.no_grad():
        torch.testing.assert_close(again(ids_of(2, 9)), model(ids_of(2, 9)))
