"""Experts are calibrated on the tokens that reach them: what few tokens cost (chapter 14).

`python -m course_utils.records.rare_experts` writes c14_experts.csv. In layers 1, 4 and 7 of the
shipped MoE model, gate and up of each of the 16 experts are rounded to 3 bits (asymmetric, groups
of 96, simulated), to nearest and by GPTQ. `tokens` is how many calibration tokens reached the
expert, `share` its share of the test tokens' choices; the errors are the relative squared errors of
the layer's output over the test tokens that reach it (4 windows of 512 of each domain).

Calibrations: 4 windows of the training split (one of each domain), 16, and 4 of English alone; and
with the first and last, as a remedy, all tokens to all experts. Seeds 0, 1, 2 draw the windows.
Two minutes on one core.
"""

import argparse
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, shipped
from course_utils.moe.layer import Experts
from course_utils.quantization.calibration import expert_layers, input_stats
from course_utils.quantization.gptq import gptq, output_error, round_to_nearest
from course_utils.quantization.perplexity import COURSE, calibration_windows, evaluation_windows
from course_utils.quantization.schemes import QuantizationArgs
from course_utils.records.recorded import EXPERT_CODE, code_hash, save_record
from course_utils.records.small_models import prepared_corpus

RECORD = "c14_experts"
KEYS = ("layer", "expert", "calibration", "seed")
TOLERANCE = {"gptq_error": 0.005, "rtn_error": 0.005}
HASHED = (
    *EXPERT_CODE,
    *(f"quantization/{part}.py" for part in ("affine", "schemes", "calibration", "gptq")),
)
LAYERS = (1, 4, 7)
ARGS = QuantizationArgs(3, False, "group", 96)
ENGLISH = replace(COURSE, domains=("english",))
FEW, MANY, ONE_DOMAIN = "4 windows", "16 windows", "4 windows of English"
ALL = ", all tokens to all experts"
WINDOWS = {FEW: (COURSE, 4), MANY: (COURSE, 16), ONE_DOMAIN: (ENGLISH, 4)}
CALIBRATIONS = (FEW, FEW + ALL, MANY, ONE_DOMAIN, ONE_DOMAIN + ALL)
Routed = dict[str, tuple[Tensor, Tensor]]  # of each layer: tokens (T, D), their experts (T, K)


@torch.no_grad()
def routed(model: DecoderLM, ids_BT: Tensor) -> Routed:
    """What reaches the experts of each layer, and the router's choices."""
    found: Routed = {}
    handles = [
        part.register_forward_pre_hook(lambda _, args, name=name: found.update({name: args[:2]}))
        for name, part in expert_layers(model).items()
    ]
    model.hidden(ids_BT)
    for handle in handles:
        handle.remove()
    return found


@cache
def test_tokens() -> Routed:
    """The tokens on which errors are judged."""
    ids_BT = evaluation_windows(course_tokenizer(), replace(COURSE, windows=4))
    return routed(shipped("moe"), ids_BT)


def hessian(x_TD: Tensor, experts_TK: Tensor, expert: int, everyone: bool) -> tuple[Tensor, int]:
    """H (D, D) of the tokens that an expert sees, and their number; the identity for none."""
    x_ND = x_TD if everyone else x_TD[(experts_TK == expert).any(-1)]
    return (input_stats(x_ND).hessian_II if len(x_ND) else torch.eye(x_TD.shape[1])), len(x_ND)


def expert_parts(model: DecoderLM, layers: tuple[int, ...]) -> dict[int, tuple[str, Experts]]:
    """The stacks of experts of these layers, with their names."""
    found = {int(name.split(".")[2]): (name, part) for name, part in expert_layers(model).items()}
    return {layer: found[layer] for layer in layers}


@torch.no_grad()
def rows_of(calibration: str, seed: int, layers: tuple[int, ...] = LAYERS) -> list[dict]:
    """The rows of one calibration, of these layers."""
    model, everyone = shipped("moe"), calibration.endswith(ALL)
    protocol, samples = WINDOWS[calibration.removesuffix(ALL)]
    seen = routed(model, calibration_windows(course_tokenizer(), protocol, samples, seed))
    found = []
    for layer, (name, part) in expert_parts(model, layers).items():
        test_TD, chosen_TK = test_tokens()[name]
        for e in range(len(part.w_gate_EDF)):
            weight_OI = torch.cat([part.w_gate_EDF[e], part.w_up_EDF[e]], dim=1).T.contiguous()
            hessian_DD, tokens = hessian(*seen[name], e, everyone)
            judge_DD, judged = hessian(test_TD, chosen_TK, e, False)
            nearest_OI = round_to_nearest(weight_OI, ARGS).dequantize()
            ours_OI = gptq(weight_OI, hessian_DD, ARGS).dequantize()
            found.append(
                {
                    "layer": layer,
                    "expert": e,
                    "calibration": calibration,
                    "seed": seed,
                    "tokens": tokens,
                    "share": round(judged / chosen_TK.numel(), 5),
                    "rtn_error": round(output_error(weight_OI, nearest_OI, judge_DD), 5),
                    "gptq_error": round(output_error(weight_OI, ours_OI, judge_DD), 5),
                    "code": code_hash(HASHED),
                    "corpus": prepared_corpus().fingerprint(),
                }
            )
    return found


def sample() -> dict:
    """The row that `course verify-records` makes again: the first expert, few tokens, seed 0."""
    return rows_of(FEW, 0, layers=LAYERS[:1])[0]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    grid = [(calibration, seed) for calibration in CALIBRATIONS for seed in (0, 1, 2)]
    print(save_record(RECORD, [row for setting in grid for row in rows_of(*setting)]))
