"""Wanda: a weight counts as much as it can change an output, so it is judged with its input.

The score of weight (f, d) is |w| times the L2 norm of input channel d over some calibration tokens.
Scores are compared within one output f, and in each row the same share goes: outputs are sums over
d, and only terms of the same sum compete. No gradient, no training, one forward pass.

Left out: updating the weights that stay (SparseGPT). Source: Sun et al. 2023, "A Simple and
Effective Pruning Approach for Large Language Models" (Wanda), section 3, equation 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_utils.models import DecoderLM
from course_utils.moe.layer import Experts
from course_utils.pruning.weights import expert_rows, prunable, watch


def wanda_mask(weight_FD: Tensor, x_TD: Tensor, sparsity: float) -> Tensor:
    """True where a weight stays, judged with inputs x of its matrix (T tokens).

    In every output row the int(sparsity * D) weights with the lowest |w| * ||x_d|| go, ||x_d||
    being the L2 norm of input channel d over the tokens. Of equal scores the first goes.
    """
    norm_D = x_TD.square().sum(0).sqrt()
    scores_FD = weight_FD.abs() * norm_D
    order_FD = scores_FD.argsort(dim=-1, stable=True)
    lowest = order_FD[:, : int(sparsity * weight_FD.shape[1])]
    return torch.ones_like(weight_FD, dtype=torch.bool).scatter(-1, lowest, False)


def wanda_masks(
    model: DecoderLM,
    ids_BT: Tensor,
    sparsity: float,
    mask: Callable[[Tensor, Tensor, float], Tensor] = wanda_mask,
) -> dict[str, Tensor]:
    """A mask for every prunable matrix, from what the model itself puts into it on the ids.

    `mask(weight_FD, x_TD, sparsity)` is the rule. An expert is judged by the tokens sent to it.
    """
    parts = dict(model.model.layers.named_modules(prefix="layers"))
    weights = prunable(model)
    linear = {n: parts[n] for n in weights if isinstance(parts.get(n), nn.Linear)}
    stacks = {n: part for n, part in parts.items() if isinstance(part, Experts)}

    def of_linear(part: nn.Linear, inputs: tuple, _: Tensor) -> Tensor:
        return mask(part.weight.detach(), inputs[0].flatten(0, -2), sparsity)

    def of_experts(part: Experts, inputs: tuple, _: Tensor) -> dict[str, Tensor]:
        rows = expert_rows(part, inputs)
        found = {}
        for name, stack in part.named_parameters():
            place = 1 if name == "w_down_EFD" else 0
            pairs = zip(stack.detach().transpose(1, 2), rows, strict=True)
            found[name] = torch.stack([mask(w, row[place], sparsity) for w, row in pairs])
        return found

    masks = dict(zip(linear, watch(model, list(linear.values()), ids_BT, of_linear), strict=True))
    found = watch(model, list(stacks.values()), ids_BT, of_experts)
    for stack, own in zip(stacks, found, strict=True):
        masks |= {f"{stack}.{name}": part for name, part in own.items()}
    return masks
