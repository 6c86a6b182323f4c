"""What calibration looks at: the inputs of every linear layer on some text, read by hooks.

A calibrated method sees a few thousand tokens and keeps, for each layer, a little of what went in:
how large each input channel was on average (AWQ) and at most (SmoothQuant), and H, the mean of
x x^T over tokens (GPTQ), which says which channels go together. Nothing is trained.

An expert of an MoE layer sees only the tokens that the router sends to it: a rare expert is
calibrated on few, which `tokens` tells. Calibration text must not be the text on which the result
is judged; `without_overlap` throws away windows that share a run of tokens with it.

Left out: statistics of outputs and gradients (AdaRound, SqueezeLLM).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_utils.layers import swiglu
from course_utils.moe.layer import Experts
from course_utils.quantization.affine import check_finite


@dataclass(frozen=True)
class InputStats:
    """Statistics of one layer's inputs, over `tokens` tokens.

    mean_abs_I, amax_I: mean and largest magnitude of each channel. hessian_II: mean of x x^T.
    """

    tokens: int
    mean_abs_I: Tensor
    amax_I: Tensor
    hessian_II: Tensor


def input_stats(x_TI: Tensor, name: str = "the input") -> InputStats:
    """The statistics of inputs x (..., I). Without a token all are zero.

    Raises ValueError, naming the input and the token (row), for infinities and NaN.
    """
    x_TI = x_TI.detach().reshape(-1, x_TI.shape[-1]).float()
    check_finite(x_TI, name)
    T = len(x_TI)
    if T == 0:
        zeros_I = x_TI.new_zeros(x_TI.shape[1])
        return InputStats(0, zeros_I, zeros_I.clone(), torch.outer(zeros_I, zeros_I))
    return InputStats(T, x_TI.abs().mean(0), x_TI.abs().amax(0), x_TI.T @ x_TI / T)


def together(one: InputStats, other: InputStats) -> InputStats:
    """The statistics of two batches as one: means weighted by tokens, maxima by the larger."""
    tokens = one.tokens + other.tokens
    share = other.tokens / max(tokens, 1)
    return InputStats(
        tokens,
        torch.lerp(one.mean_abs_I, other.mean_abs_I, share),
        torch.maximum(one.amax_I, other.amax_I),
        torch.lerp(one.hessian_II, other.hessian_II, share),
    )


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a decoder's layers by name: no embedding, head or router."""
    return {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and ".layers." in f".{name}" and part.out_features > 1
    }


def expert_layers(model: nn.Module) -> dict[str, Experts]:
    """The stacks of experts by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Experts)}


def expert_inputs(
    experts: Experts, x_TD: Tensor, experts_TK: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(e, x_ND, hidden_NF) for each expert: the rows that reach it, and what reaches its down
    projection (with its weights as they are at that moment)."""
    for e in range(len(experts.w_gate_EDF)):
        x_ND = x_TD[(experts_TK == e).any(-1)]
        yield e, x_ND, swiglu(x_ND @ experts.w_gate_EDF[e], x_ND @ experts.w_up_EDF[e])


@torch.no_grad()
def collect(model: nn.Module, ids_BT: Tensor, batch: int = 8) -> dict[str, InputStats]:
    """`InputStats` of every linear layer and expert while the model reads ids (B, T).

    Keys are the layers' names; of experts `<stack>.<e>` (gate and up) and `<stack>.<e>.down`.
    Raises ValueError, naming the layer, for inputs that are infinite or NaN.
    """
    found: dict[str, InputStats] = {}

    def add(name: str, x_TI: Tensor) -> None:
        new = input_stats(x_TI, f"the input of {name}")
        found[name] = together(found[name], new) if name in found else new

    def read_experts(name: str, part: Experts, args: tuple) -> None:
        for e, x_ND, hidden_NF in expert_inputs(part, args[0], args[1]):
            add(f"{name}.{e}", x_ND)
            add(f"{name}.{e}.down", hidden_NF)

    handles = [
        part.register_forward_pre_hook(lambda _, args, name=name: add(name, args[0]))
        for name, part in linear_layers(model).items()
    ]
    handles += [
        part.register_forward_pre_hook(lambda part, args, name=name: read_experts(name, part, args))
        for name, part in expert_layers(model).items()
    ]
    try:
        for part in ids_BT.split(batch):
            model(part)
    finally:
        for handle in handles:
            handle.remove()
    return found


def without_overlap(windows_NT: Tensor, evaluation_MT: Tensor, run: int = 32) -> Tensor:
    """The windows (rows) that share no run of `run` neighbouring tokens with the evaluation text.

    Shapes: windows (N, T), evaluation (M, S); result (at most N, T), in order. A run does not cross
    from one row to the next. Raises ValueError for a run longer than a row.
    """
    if not 1 <= run <= min(windows_NT.shape[1], evaluation_MT.shape[1]):
        raise ValueError(f"run is {run}: choose 1 to the length of a row")
    seen = {tuple(part) for row in evaluation_MT.unfold(1, run, 1).tolist() for part in row}
    kept = [
        not any(tuple(part) in seen for part in row)
        for row in windows_NT.unfold(1, run, 1).tolist()
    ]
    return windows_NT[torch.tensor(kept, dtype=torch.bool)]
