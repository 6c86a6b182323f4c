"""Which input channels are outliers: SmolLM2 and the course's model (chapter 14).

`python -m course_utils.records.outliers` reads 2 windows of 512 tokens of each domain of the test
split and writes c14_outliers.csv: for the input of every linear layer, the channel with the largest
magnitude, that magnitude, and the median of all channels' largest magnitudes. Query, key and value
read one input, gate and up another. `first` is the share of the largest channel's peak that stands
at the first token of a window, where many models keep a huge value. Under a minute on two cores;
SmolLM2 must have been fetched. Nothing is drawn at random.
"""

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from course_utils.data.tokenizer import Tokenizer, course_tokenizer
from course_utils.models import DecoderLM, shipped
from course_utils.models.pretrained import smollm2
from course_utils.quantization.calibration import linear_layers
from course_utils.quantization.llm_int8 import outlier_columns
from course_utils.quantization.perplexity import COURSE, SMOLLM2, Protocol, evaluation_windows
from course_utils.records.recorded import CODE, code_hash, save_record
from course_utils.records.small_models import prepared_corpus

RECORD = "c14_outliers"
KEYS = ("model", "layer", "part")
TOLERANCE = {"peak": 0.05, "ratio": 0.1}
HASHED = (*CODE, "quantization/llm_int8.py", "quantization/perplexity.py")
WINDOWS = 2
PARTS = ("q_proj", "o_proj", "gate_proj", "down_proj")  # one for each input


@torch.no_grad()
def inputs(model: DecoderLM, ids_BT: Tensor) -> dict[str, Tensor]:
    """What goes into each linear layer of PARTS, (B, T, I), by the layer's name."""
    found: dict[str, Tensor] = {}
    handles = [
        part.register_forward_pre_hook(lambda _, args, name=name: found.update({name: args[0]}))
        for name, part in linear_layers(model).items()
        if name.endswith(PARTS)
    ]
    model(ids_BT)
    for handle in handles:
        handle.remove()
    return found


def rows_of(name: str, model: DecoderLM, tokenizer: Tokenizer, protocol: Protocol) -> list[dict]:
    """One row for every input of a model."""
    ids_BT = evaluation_windows(tokenizer, replace(protocol, windows=WINDOWS))
    found = []
    for place, x_BTI in inputs(model, ids_BT).items():
        amax_I, first_I = x_BTI.abs().amax((0, 1)), x_BTI[:, 0].abs().amax(0)
        peak, channel = amax_I.max(0)
        found.append(
            {
                "model": name,
                "layer": int(place.split(".layers.")[1].split(".")[0]),
                "part": place.rpartition(".")[2],
                "channel": int(channel),
                "peak": round(float(peak), 3),
                "median": round(float(amax_I.median()), 4),
                "ratio": round(float(peak / amax_I.median()), 2),
                "first": round(float(first_I[channel] / peak), 3),
                "over_6": len(outlier_columns(x_BTI.flatten(0, 1))),
                "channels": len(amax_I),
                "tokens": ids_BT.numel(),
                "code": code_hash(HASHED),
                "corpus": prepared_corpus().fingerprint(),
            }
        )
    return found


def course_rows() -> list[dict]:
    """The rows of the course's model."""
    return rows_of("course", shipped("dense"), course_tokenizer(), COURSE)


def sample() -> dict:
    """The row that `course verify-records` makes again: the course's model, its first input."""
    return course_rows()[0]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    smol = smollm2()
    real = rows_of("SmolLM2", smol.model, smol.tokenizer, SMOLLM2)
    print(save_record(RECORD, [*course_rows(), *real]))
