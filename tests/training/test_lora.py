"""LoRA changes nothing before training, only its own weights learn, and merging equals adapting."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.layers import Linear
from course_utils.models import DecoderLM, ModelConfig
from course_utils.training import TrainingConfig
from course_utils.training.adapter_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_state,
    load_adapter,
    read_adapter,
    save_adapter,
)
from course_utils.training.lora import (
    EVERY_LINEAR,
    LoRALinear,
    add_adapter,
    lora_layers,
    lora_linear,
    merge_adapter,
    set_adapter,
)
from course_utils.training.supervised import encode_examples, fine_tune


def tiny(seed: int = 0) -> DecoderLM:
    return DecoderLM(ModelConfig(50, 16, 32, 2, 4, 2, 8), seed=seed).eval()


def stir(model: DecoderLM, seed: int = 1) -> None:
    """Give every adapter weights that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        for up in layer.lora_B.values():
            up.weight.data.copy_(torch.randn(up.weight.shape, generator=generator))


@pytest.fixture
def ids_BT() -> torch.Tensor:  # noqa: N802 - shape suffix
    return torch.randint(50, (2, 7), generator=torch.Generator().manual_seed(0))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.floats(0.1, 32), st.integers(5, 9), st.integers(5, 9))
def test_two_thin_products_equal_one_full_matrix(rank, alpha, inputs, outputs):
    generator = torch.Generator().manual_seed(rank + inputs)
    x, w, a, b = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((3, inputs), (outputs, inputs), (rank, inputs), (outputs, rank))
    )
    full = w + alpha / rank * b @ a
    torch.testing.assert_close(lora_linear(x, w, a, b, alpha), x @ full.T)
    layer = LoRALinear(Linear(inputs, outputs, bias=False).double())
    layer.base_layer.weight.data = w
    layer.add("one", rank, alpha, generator)
    layer.active = "one"
    layer.lora_A["one"].weight.data, layer.lora_B["one"].weight.data = a, b
    torch.testing.assert_close(layer(x), x @ full.T)
    torch.testing.assert_close(layer.merged()(x), x @ full.T)


def test_a_new_adapter_changes_nothing(ids_BT):
    model = tiny()
    before = model(ids_BT)
    add_adapter(model, 2, targets=EVERY_LINEAR)
    assert torch.equal(model(ids_BT), before)


def test_only_the_adapter_learns(ids_BT):
    model = tiny()
    frozen = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights = add_adapter(model, 2)
    assert sum(w.numel() for w in weights) == 2 * 2 * ((16 + 32) + (16 + 16))  # q and v, two layers
    assert {id(w) for w in weights} == {id(w) for w in model.parameters() if w.requires_grad}
    examples = encode_examples(list, [([1, 2], [3, 4]), ([5], [6])])
    losses = fine_tune(model, examples, TrainingConfig(30, 2, 4, 1e-2), progress=False)
    assert losses[-1] < losses[0]
    after = merge_free_state(model)
    assert all(torch.equal(after[name], weight) for name, weight in frozen.items())


def merge_free_state(model: DecoderLM) -> dict[str, torch.Tensor]:
    """The base's weights under the names that they had before the adapter."""
    state = {name.replace(".base_layer", ""): w for name, w in model.state_dict().items()}
    return {name: weight for name, weight in state.items() if "lora_" not in name}


def test_merged_equals_unmerged_and_leaves_a_plain_model(ids_BT):
    model = tiny().double()
    names = set(model.state_dict())
    add_adapter(model, 3, alpha=5.0, targets=EVERY_LINEAR)
    stir(model)
    adapted = model(ids_BT)
    merged = merge_adapter(model)
    assert not lora_layers(merged) and set(merged.state_dict()) == names
    torch.testing.assert_close(merged(ids_BT), adapted, rtol=0, atol=1e-12)
    assert (merged(ids_BT) - tiny().double()(ids_BT)).abs().max() > 0.01


def test_several_adapters_on_one_base(ids_BT):
    model = tiny()
    base = model(ids_BT)
    add_adapter(model, 2, name="one")
    add_adapter(model, 3, name="two", targets=("q_proj", "up_proj"), seed=1)
    stir(model)
    two = model(ids_BT)
    set_adapter(model, "one")
    one = model(ids_BT)
    set_adapter(model, None)
    assert torch.equal(model(ids_BT), base)
    assert not torch.allclose(one, two) and not torch.allclose(one, base)
    set_adapter(model, "two")
    assert torch.equal(model(ids_BT), two)
    alone = tiny()
    add_adapter(alone, 3, name="two", targets=("q_proj", "up_proj"), seed=1)
    for name, layer in lora_layers(alone).items():
        layer.load_state_dict(
            {k: v for k, v in lora_layers(model)[name].state_dict().items() if "one" not in k}
        )
    torch.testing.assert_close(alone(ids_BT), two)


def test_cached_generation_uses_the_adapter(ids_BT):
    model = tiny()
    add_adapter(model, 2)
    stir(model)
    with torch.no_grad():
        cache = model.new_cache(2, 7)
        steps = [model(ids_BT[:, t : t + 1], cache) for t in range(7)]
        torch.testing.assert_close(torch.cat(steps, 1), model(ids_BT))


def test_saved_and_loaded_adapters_are_the_same(ids_BT, tmp_path):
    model = tiny()
    add_adapter(model, 2, alpha=3.0, name="skill")
    stir(model)
    for layer in lora_layers(model).values():
        layer.lora_A["skill"].weight.data = layer.lora_A["skill"].weight.bfloat16().float()
        layer.lora_B["skill"].weight.data = layer.lora_B["skill"].weight.bfloat16().float()
    save_adapter(model, tmp_path / "a", {"base": "tiny"}, "skill")
    other = tiny()
    assert load_adapter(other, tmp_path / "a", "again") == {"base": "tiny"}
    config, lineage, _ = read_adapter(tmp_path / "a")
    assert (config["r"], config["lora_alpha"], lineage) == (2, 3.0, {"base": "tiny"})
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert torch.equal(other(ids_BT), model(ids_BT))
    assert not any(weight.requires_grad for weight in other.parameters())
    assert set(adapter_state(other, "again")) == set(adapter_state(model, "skill"))


def test_what_does_not_fit_is_refused_and_nothing_is_lost(ids_BT, tmp_path):
    model = tiny()
    before = model(ids_BT)
    with pytest.raises(ValueError, match="no linear layer is called qproj"):
        add_adapter(model, 2, targets=("qproj",))
    with pytest.raises(ValueError, match="rank is 17: these matrices allow 1 to 16"):
        add_adapter(model, 17)
    assert not lora_layers(model) and all(w.requires_grad for w in model.parameters())
    add_adapter(model, 2)
    with pytest.raises(ValueError, match="an adapter 'default' already"):
        add_adapter(model, 2)
    with pytest.raises(ValueError, match="no adapter 'skill': this model has default"):
        set_adapter(model, "skill")
    with pytest.raises(ValueError, match="no adapter 'skill'"):
        adapter_state(model, "skill")
    save_adapter(model, tmp_path / "a", {})
    wide = DecoderLM(ModelConfig(50, 24, 32, 2, 4, 2, 8))
    with pytest.raises(ValueError, match=r"q_proj.lora_A.weight has shape \(2, 16\)"):
        load_adapter(wide, tmp_path / "a")
    assert not lora_layers(wide)
    (tmp_path / "a" / WEIGHTS_FILE).write_bytes(b"no")
    for folder in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(ValueError, match="not a readable adapter"):
            load_adapter(tiny(), folder)
    assert torch.equal(model(ids_BT), before)


@pytest.mark.parametrize(
    ("key", "value"),
    [("use_rslora", True), ("bias", "all"), ("peft_type", "IA3"), ("target_modules", ".*proj")],
)
def test_other_forms_of_adapters_are_refused_by_name(key, value, tmp_path):
    model = tiny()
    add_adapter(model, 2)
    save_adapter(model, tmp_path, {})
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=f"{key}.*plain LoRA with a list of layers is supported"):
        load_adapter(tiny(), tmp_path)
