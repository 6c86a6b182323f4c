"""LoRA against `peft` on the same weights: outputs, gradients, merged weights, files both ways.

The base is a small Llama in the names of `transformers`, carried over to ours; A and B are random,
B too, which begins at zero and would hide every mistake. These run in the oracles' environment
(`make oracles`).
"""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.models import DecoderLM, ModelConfig
from course_utils.training.adapter_files import adapter_state, load_adapter, save_adapter
from course_utils.training.lora import (
    ATTENTION,
    EVERY_LINEAR,
    add_adapter,
    lora_layers,
    merge_adapter,
    set_adapter,
)
from course_utils.training.supervised import supervised_loss

peft = pytest.importorskip("peft", reason="the oracles' environment has it: make oracles")

CONFIG = ModelConfig(53, 24, 40, 2, 4, 2, 8, 64, tie_word_embeddings=False, use_qk_norm=False)
CASES = [(1, 1.0, ATTENTION), (4, 16.0, ATTENTION), (3, 5.0, EVERY_LINEAR)]
IDS = torch.randint(53, (3, 9), generator=torch.Generator().manual_seed(0))


def bases() -> tuple[DecoderLM, LlamaForCausalLM]:
    """Ours and theirs with the same random weights."""
    ours, values = DecoderLM(CONFIG, seed=0).eval(), CONFIG.to_dict()
    values.pop("use_qk_norm")
    rope = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    theirs = LlamaForCausalLM(LlamaConfig(**values, rope_parameters=rope)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in ours.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.3 * noise if weight.dim() == 1 else 0.15 * noise)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def adapted(rank: int, alpha: float, targets: tuple[str, ...]) -> tuple[DecoderLM, nn.Module]:
    """Ours and peft's with the same adapter, random in A and in B."""
    ours, theirs = bases()
    add_adapter(ours, rank, alpha, targets)
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
    theirs = peft.get_peft_model(theirs, settings).eval()
    fill(ours, 2)
    left = peft.set_peft_model_state_dict(theirs, adapter_state(ours))
    assert not left.unexpected_keys and len(peft_state(theirs)) == len(adapter_state(ours))
    return ours, theirs


def fill(model: DecoderLM, seed: int) -> None:
    """Random A and B in every adapter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            for part in (*layer.lora_A.values(), *layer.lora_B.values()):
                weight = 0.3 * torch.randn(part.weight.shape, generator=generator)
                part.weight.copy_(weight.bfloat16())  # what 16 bits can hold: files lose nothing


def peft_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return peft.get_peft_model_state_dict(model)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found = model(IDS)
    return getattr(found, "logits", found)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rank", "alpha", "targets"), CASES)
def test_outputs_and_gradients_are_those_of_peft(rank, alpha, targets):
    ours, theirs = adapted(rank, alpha, targets)
    base = logits(bases()[0])
    assert (logits(ours) - base).abs().max() > 0.1  # the adapter does something
    close(logits(ours), logits(theirs))
    labels = IDS.masked_fill(IDS % 3 == 0, -100)
    supervised_loss(ours(IDS), labels).backward()
    theirs(IDS, labels=labels).loss.backward()
    there = {name: weight for name, weight in theirs.named_parameters() if weight.requires_grad}
    here = {name: weight for name, weight in ours.named_parameters() if weight.requires_grad}
    assert {f"base_model.model.{name}" for name in here} == set(there)
    for name, weight in here.items():
        assert weight.grad.abs().max() > 0
        close(weight.grad, there[f"base_model.model.{name}"].grad)


@pytest.mark.parametrize(("rank", "alpha", "targets"), CASES)
def test_merged_weights_are_those_of_peft(rank, alpha, targets):
    ours, theirs = adapted(rank, alpha, targets)
    before, merged = logits(ours), merge_adapter(copy.deepcopy(ours))
    plain = theirs.merge_and_unload()
    assert set(merged.state_dict()) == set(plain.state_dict())
    for name, weight in plain.state_dict().items():
        close(merged.state_dict()[name], weight)
    close(logits(merged), before)


def test_a_new_adapter_begins_as_peft_begins():
    ours, theirs = bases()
    add_adapter(ours, 8)
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=8, target_modules=list(ATTENTION)))
    here, there = adapter_state(ours), peft_state(theirs)
    assert set(here) == set(there)
    for name, weight in there.items():
        assert here[name].shape == weight.shape
        if "lora_B" in name:
            assert not here[name].any() and not weight.any()
        else:  # uniform within 1 / sqrt(inputs)
            assert 0.8 < here[name].abs().max() * 24**0.5 <= 1
            assert 0.8 < weight.abs().max() * 24**0.5 <= 1


def test_peft_loads_our_files(tmp_path):
    ours, _ = adapted(4, 16.0, EVERY_LINEAR)
    save_adapter(ours, tmp_path, {"base": "small"})
    theirs = peft.PeftModel.from_pretrained(bases()[1], tmp_path).eval()
    assert not torch.allclose(logits(theirs), logits(bases()[1]), atol=0.1)
    close(logits(ours), logits(theirs))


def test_we_load_the_files_of_peft(tmp_path):
    ours, theirs = adapted(3, 5.0, ATTENTION)
    theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = bases()[0]
    assert load_adapter(loaded, tmp_path) == {}  # peft writes no lineage
    close(logits(loaded), logits(theirs))
    assert torch.equal(logits(loaded), logits(ours))


@pytest.mark.parametrize("option", [{"use_rslora": True}, {"use_dora": True}, {"bias": "all"}])
def test_forms_that_ours_has_not_are_refused(option, tmp_path):
    settings = peft.LoraConfig(r=2, target_modules=list(ATTENTION), **option)
    peft.get_peft_model(bases()[1], settings).save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(ValueError, match=next(iter(option))):
        load_adapter(bases()[0], tmp_path)


def test_several_adapters_on_one_base(tmp_path):
    ours, theirs = bases()
    for seed, (name, rank, alpha) in enumerate((("one", 2, 4.0), ("two", 5, 3.0))):
        add_adapter(ours, rank, alpha, name=name)
        fill(ours, seed)  # the first adapter gets new values too: saved below
    for name in ("one", "two"):
        save_adapter(ours, tmp_path / name, {}, name)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "one", adapter_name="one").eval()
    theirs.load_adapter(tmp_path / "two", adapter_name="two")
    for name in ("one", "two", "one"):
        set_adapter(ours, name)
        theirs.set_adapter(name)
        close(logits(ours), logits(theirs))
    set_adapter(ours, None)
    with theirs.disable_adapter():
        close(logits(ours), logits(theirs))
