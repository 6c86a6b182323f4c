"""Reading configs: files, wrong values, unknown keys, and what is not modelled, each by name."""

import json

import pytest

from course_utils.accounting.catalog import catalog, find
from course_utils.accounting.conventions import checkpoint
from course_utils.accounting.reading import ignorable
from course_utils.accounting.spec import ModelSpec
from course_utils.accounting.tensors import MTP, Count

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 100,
}  # fmt: skip


def without(key: str, config: dict = LLAMA) -> dict:
    return {name: value for name, value in config.items() if name != key}


def test_a_file_a_folder_and_a_dict_are_the_same(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    spec = ModelSpec.from_hf_config(LLAMA)
    assert ModelSpec.from_hf_config(path) == spec
    assert ModelSpec.from_hf_config(str(tmp_path)) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no JSON"), ("[1]", "holds a list: a config.json holds an object"), ("\xff", "JSON")],
)
def test_files_that_are_no_config(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        ModelSpec.from_hf_config(path)
    with pytest.raises(ValueError, match="there is no file"):
        ModelSpec.from_hf_config(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (without("model_type"), "model_type is missing: add it"),
        (LLAMA | {"model_type": "bert"}, "model_type is 'bert', which is not read here: known"),
        (without("hidden_size"), "hidden_size is missing: add it"),
        (without("intermediate_size"), "intermediate_size is missing"),
        (without("head_dim", find("Qwen3-32B").config), "head_dim is missing: add it, qwen3 does"),
        (without("text_config", find("Kimi-K3").config), "text_config is missing: model_type 'k"),
        (LLAMA | {"vocab_size": "100"}, "vocab_size is '100': it must be a whole number"),
        (LLAMA | {"hidden_size": 64.0}, r"hidden_size is 64\.0: it must be a whole number"),
        (LLAMA | {"num_hidden_layers": 0}, "num_hidden_layers is 0: it must be a whole number of"),
        (LLAMA | {"num_hidden_layers": True}, "num_hidden_layers is True"),
        (LLAMA | {"num_key_value_heads": 3}, "num_key_value_heads is 3: it must divide"),
        (LLAMA | {"hidden_size": 66}, "num_attention_heads is 4, which does not divide"),
        (LLAMA | {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes': it must be true"),
        (LLAMA | {"hidden_act": "relu"}, "hidden_act is 'relu': only gated"),
        (LLAMA | {"text_config": LLAMA}, "with a text_config: only"),
        (without("q_lora_rank", find("DeepSeek-V3").config), "q_lora_rank is missing: give a"),
        (find("DeepSeek-V3").config | {"moe_layer_freq": 2}, "moe_layer_freq is 2: only 1"),
        (find("Qwen3-30B-A3B").config | {"num_experts_per_tok": 200}, "is 200: choose from 1 to"),
        (find("gpt-oss-20b").config | {"layer_types": ["full_attention"]}, "has 1 entries: there"),
        (
            find("gpt-oss-20b").config | {"layer_types": ["chunked_attention"] * 24},
            "layer_types holds 'chunked_attention': known are",
        ),
        (
            find("Kimi-Linear-48B-A3B").config | {"num_hidden_layers": 28},
            "linear_attn_config lists 27 layers",
        ),
        (find("Step-3").config | {"moe_layers_enum": "4,99"}, "moe_layers_enum names layer 99"),
        (find("Hunyuan-A13B").config | {"moe_topk": [8, 4]}, r"moe_topk is \[8, 4\]: only equal"),
        (find("MiniMax-M2").config | {"qk_norm_type": "per_head"}, "qk_norm_type is 'per_head'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_wrong_configs_name_key_and_value(config, message):
    with pytest.raises(ValueError, match=message):
        ModelSpec.from_hf_config(config)


# Keys that may be left out although they change a count: absent means off, as their families say.
OFF_WHEN_ABSENT = {
    "attention_bias", "expert_dtype", "num_nextn_predict_layers", "quantization_config",
    "routed_expert_hidden_size", "tie_word_embeddings", "use_cla", "use_qk_norm",
}  # fmt: skip
OTHER_DEFAULTS = {("llama", "num_key_value_heads"), ("kimi_linear", "q_lora_rank")}


def test_no_missing_key_is_guessed():
    for entry in catalog().values():
        config = entry.config.get("text_config", entry.config)
        whole = ModelSpec.from_hf_config(config)
        for key in config:
            try:
                rest = ModelSpec.from_hf_config(without(key, config))
            except ValueError as error:
                assert key in str(error), f"{entry.name} without {key}: {error}"
                continue
            if (checkpoint(rest), rest.count()) != (checkpoint(whole), whole.count()):
                known = key in OFF_WHEN_ABSENT or (config["model_type"], key) in OTHER_DEFAULTS
                assert known, f"{entry.name} without {key} is counted in silence"


QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 20}


@pytest.mark.parametrize(("first", "sliding"), [(20, 8), (0, 28), (28, 0), (40, 0)])
def test_windows_of_qwen_begin_after_the_first_layers(first, sliding):
    config = find("Qwen3-0.6B").config | QWEN_WINDOW | {"max_window_layers": first}
    labels = [layer.attention.label for layer in ModelSpec.from_hf_config(config).layers]
    assert labels == ["GQA"] * (28 - sliding) + ["GQA, window 4"] * sliding


def test_windows_of_qwen_are_those_of_transformers():
    from transformers import Qwen3Config

    values = find("Qwen3-0.6B").config | QWEN_WINDOW
    theirs = Qwen3Config(**{k: v for k, v in values.items() if k != "model_type"}).layer_types
    ours = [layer.attention.sliding_window for layer in ModelSpec.from_hf_config(values).layers]
    assert [kind == "sliding_attention" for kind in theirs] == [size == 4 for size in ours]
    assert ModelSpec.from_hf_config(values | {"layer_types": theirs}).not_modelled == ()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Qwen3-0.6B", {"use_sliding_window": True, "sliding_window": None}, "sliding_window is"),
        ("Qwen3-0.6B", QWEN_WINDOW | {"max_window_layers": None}, "max_window_layers is missing"),
        ("Qwen3-0.6B", QWEN_WINDOW | {"layer_types": ["full_attention"] * 28}, "does not agree"),
        ("Qwen3-30B-A3B", QWEN_WINDOW, "use_sliding_window is true: only false is read"),
    ],
)
def test_windows_that_cannot_be_read(name, changes, message):
    with pytest.raises(ValueError, match=message):
        ModelSpec.from_hf_config(find(name).config | changes)


def test_reading_changes_no_config():
    config = find("Kimi-K3").config
    before = json.dumps(config)
    inner = {k: v for k, v in config["text_config"].items() if k != "tie_word_embeddings"}
    outer = config | {"text_config": inner}
    ModelSpec.from_hf_config(outer)
    assert "tie_word_embeddings" not in inner and json.dumps(config) == before


def test_unknown_keys_are_listed_unless_switched_off():
    spec = ModelSpec.from_hf_config(LLAMA | {"memory_tokens": 7, "extra_gate": False})
    (line,) = spec.not_modelled
    assert line == "memory_tokens is 7: an unknown key, its weights, if any, are not counted"


def test_keys_that_change_no_count_change_nothing():
    extra = {"rope_theta": 1e6, "attention_dropout": 0.1, "max_position_embeddings": 4}
    assert extra.keys() <= ignorable()
    assert ModelSpec.from_hf_config(LLAMA | extra) == ModelSpec.from_hf_config(LLAMA)


def test_2026_models_say_what_is_missing():
    lines = {name: find(name).spec.not_modelled for name in catalog()}
    open_ends = {name: len(found) for name, found in lines.items() if found}
    assert open_ends == {
        "DeepSeek-V4-Flash": 2,
        "DeepSeek-V4-Pro": 2,
        "gpt-oss-120b": 1,
        "gpt-oss-20b": 1,
        "Kimi-K3": 5,
        "MiniMax-M2": 1,
        "MiniMax-M3": 2,
        "Qwen3.5-397B-A17B": 2,
    }
    assert any(line.startswith("vision_config is") for line in lines["Kimi-K3"])
    assert "num_mtp_modules is 3" in lines["MiniMax-M2"][0]


def test_no_catalog_config_has_a_key_that_is_unknown():
    for entry in catalog().values():
        assert not [line for line in entry.spec.not_modelled if "unknown key" in line], entry.name


def test_the_course_model_needs_no_model_type():
    config = {
        "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "tie_word_embeddings": True, "use_qk_norm": True,
    }  # fmt: skip
    assert ModelSpec.from_hf_config(config).model_type == "course"


def test_breakdown_by_part_name_and_layer_type():
    spec = find("DeepSeek-V3").spec
    assert list(spec.by_part()) == [
        "embedding", "attention", "dense FFN", "routed experts", "shared experts", "router",
        "norms", "head", "MTP module",
    ]  # fmt: skip
    names = spec.by_name("attention")
    assert names["q_b_proj"] == Count(61 * 1536 * 128 * 192, 61 * 1536 * 128 * 192)
    assert names["kv_b_proj"].total == 61 * 512 * 128 * 256
    kinds = spec.by_layer_type()
    assert {label: number for label, (number, _) in kinds.items()} == {
        "MLA | dense": 3,
        "MLA | MoE": 58,
    }
    tables = sum(weight.total for weight in spec.tables)
    assert tables + sum(n * one.total for n, one in kinds.values()) == spec.count().total
    assert spec.by_part()[MTP] == spec.mtp_count()


def test_biases_of_qwen_and_sinks_of_gpt_oss():
    qwen = find("Qwen2.5-7B").spec
    assert qwen.by_part()["biases"].total == 28 * 128 * (28 + 4 + 4)
    assert find("gpt-oss-120b").spec.by_name("attention")["sinks"].total == 36 * 64
    router = find("gpt-oss-120b").spec.by_part()["router"].total
    assert router == 36 * 128 * (2880 + 1)


def _places(config: dict) -> list[tuple[str, ...]]:
    inner = [(key, name) for key, v in config.items() if isinstance(v, dict) for name in v]
    return [*((key,) for key in config), *inner]


JUNK = ["x", "1,b", 3.5, -1, True, [], ["a"], [[1]], [1] * 200, [[1]] * 200, {}, {"a": 1}]


@pytest.mark.parametrize("name", catalog())
def test_any_wrong_value_is_counted_or_refused_and_never_breaks(name):
    config = find(name).config
    for place in _places(config):
        for junk in JUNK:
            changed = dict(config)
            if len(place) == 1:
                changed[place[0]] = junk
            else:
                changed[place[0]] = config[place[0]] | {place[1]: junk}
            try:
                ModelSpec.from_hf_config(changed).count()
            except ValueError as error:
                assert str(error)
