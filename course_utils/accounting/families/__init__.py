"""From a `config.json` to a ModelSpec: one reader for each family, chosen by `model_type`.

A reader names the keys of its family, with that family's defaults, and nothing else. Configs of
models that also see pictures hold the language model under `text_config`; that part is read, and
the rest is listed as not modelled.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

from course_utils.accounting.families import (
    bailing,
    course,
    deepseek,
    dense,
    hybrid,
    minimax,
    others,
    qwen,
)
from course_utils.accounting.reading import Keys, load
from course_utils.accounting.spec import ModelSpec

READERS: dict[str, Callable[[Keys], ModelSpec]] = {
    **course.READERS,
    **dense.READERS,
    **qwen.READERS,
    **deepseek.READERS,
    **hybrid.READERS,
    **minimax.READERS,
    **bailing.READERS,
    **others.READERS,
}
_WRAPPERS = ("kimi_k25", "kimi_k3", "minimax_m3_vl", "qwen3_5_moe", "step3_vl")
_GATED = {"silu", "swish", "swigluoai", "situ", "swiglu"}


def read_config(config: "Mapping[str, Any] | str | PathLike[str]") -> ModelSpec:
    """Read a config; ValueError names key, value and remedy."""
    outer = load(config)
    inner, notes = _language_model(outer)
    keys = Keys(inner)
    model_type = _model_type(inner)
    activation = keys.text("hidden_act", default="silu")
    if activation not in _GATED:
        raise ValueError(
            f"hidden_act is {activation!r}: only gated feed-forwards are counted, "
            f"which go with {', '.join(sorted(_GATED))}"
        )
    spec = READERS[model_type](keys)
    block = _fp8_block(inner.get("quantization_config") or outer.get("quantization_config"), keys)
    return replace(spec, fp8_block=block, not_modelled=(*notes, *keys.unread()))


def _model_type(config: Mapping[str, Any]) -> str:
    if course.is_course(config):
        return "course"
    found = config.get("model_type")
    if not found or not isinstance(found, str):
        raise ValueError("model_type is missing: add it, such as 'qwen3'")
    if found not in READERS:
        if found in _WRAPPERS:
            raise ValueError(f"text_config is missing: model_type {found!r} keeps its sizes there")
        raise ValueError(
            f"model_type is {found!r}, which is not read here: known are {', '.join(READERS)}"
        )
    return found


def _language_model(outer: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The part of a config that describes the language model, and what is left beside it."""
    inner = outer.get("text_config")
    if inner is None:
        return outer, []
    if outer.get("model_type") not in _WRAPPERS or not isinstance(inner, dict):
        raise ValueError(
            f"model_type is {outer.get('model_type')!r} with a text_config: only "
            f"{', '.join(_WRAPPERS)} are read; give the text_config alone"
        )
    beside = Keys({key: value for key, value in outer.items() if key != "text_config"})
    beside.seen |= {"quantization_config", "tie_word_embeddings", "hidden_size"}
    for key in ("vision_config", "projector_bias", "understand_projector_stride"):
        beside.note(key, "the part that sees pictures is not counted")
    tied = {"tie_word_embeddings": outer.get("tie_word_embeddings", False)}
    return tied | inner, beside.unread()


def _fp8_block(quantization: dict[str, Any] | None, keys: Keys) -> tuple[int, int] | None:
    """The block of FP8 scales; another format of the published file is noted, not an error."""
    keys.seen.add("quantization_config")
    if not quantization:
        return None
    if not isinstance(quantization, dict):
        raise ValueError(f"quantization_config is {quantization!r}: it must be an object with keys")
    block = quantization.get("weight_block_size")
    if "expert_dtype" in keys:  # FP4 experts among FP8 weights: noted by the reader
        return None
    if quantization.get("quant_method") == "fp8" and block:
        two = Keys(quantization).numbers("weight_block_size")
        if len(two) != 2 or 0 in two:
            raise ValueError(f"weight_block_size is {block}: it must be rows and columns")
        return two[0], two[1]
    method = quantization.get("quant_method", "an unnamed method")
    keys.notes.append(
        f"quantization_config.quant_method is {method!r}: parameters are counted as logical "
        "weights, its scales are not"
    )
    return None
