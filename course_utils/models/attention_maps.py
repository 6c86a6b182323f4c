"""What a trained model's attention reads: its weights layer by layer, and what happens with fewer.

`look` runs a model of grouped-query layers and keeps, for every layer, what went in and the
attention weights. With `choose` each layer reads only what the function allows, so that a rule for
skipping can be tried on a model that was never trained with it.

Left out: a cache, and layers of other kinds; the whole matrix of weights is held in memory, so the
texts must be short.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from course_utils.attention import GroupedQueryAttention, causal_mask
from course_utils.attention.dsa import attention_target
from course_utils.models.decoder import DecoderLM

Choose = Callable[[int, Tensor, Tensor], Tensor]


@dataclass
class Looked:
    """Logits (B, T, V); for every layer its normed input (B, T, D), its weights (B, H, T, T) when
    all may be read, and in `read` the mask (B, T, T) of what was read."""

    logits_BTV: Tensor | None = None
    inputs: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    read: list[Tensor] = field(default_factory=list)

    def targets(self) -> list[Tensor]:
        """The weights (B, T, T) of every layer, averaged over its heads."""
        return [attention_target(weights_BHTT) for weights_BHTT in self.weights]


@torch.no_grad()
def look(model: DecoderLM, ids_BT: Tensor, choose: Choose | None = None) -> Looked:
    """Run the model and keep what its attention does.

    choose(layer, x_BTD, target_BTT) gives the mask (B, T, T) of what the layer may read, from its
    input and from the weights that dense attention would have, averaged over the heads.

    Raises ValueError when a layer is not grouped-query attention.
    """
    layers = [layer.self_attn for layer in model.model.layers]
    if not all(isinstance(layer, GroupedQueryAttention) for layer in layers):
        raise ValueError("this model has layers without a map of weights: give a model of GQA")
    found, before = Looked(), [layer.attend for layer in layers]
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: found.inputs.append(given[0]))
        for layer in layers
    ]
    try:
        for layer in layers:
            layer.attend = lambda q, k, v, mask=None: _attend(found, choose, q, k, v)
        found.logits_BTV = model(ids_BT)
    finally:
        for layer, attend, hook in zip(layers, before, hooks, strict=True):
            layer.attend = attend
            hook.remove()
    return found


def _attend(
    found: Looked, choose: Choose | None, q_BHTd: Tensor, k_BGTd: Tensor, v_BGTd: Tensor
) -> Tensor:
    """Causal attention by the formula, in two steps: the weights, then what may be read of them."""
    (H, T, d), groups = q_BHTd.shape[1:], k_BGTd.shape[1]
    k_BHTd, v_BHTd = (x.repeat_interleave(H // groups, dim=1) for x in (k_BGTd, v_BGTd))
    causal_TT = causal_mask(T, T, q_BHTd.device)
    scores_BHTT = (q_BHTd @ k_BHTd.mT / d**0.5).masked_fill(~causal_TT, -torch.inf)
    weights_BHTT = scores_BHTT.softmax(dim=-1)
    layer = len(found.weights)
    found.weights.append(weights_BHTT)
    read_BTT = causal_TT.expand(len(q_BHTd), T, T)
    if choose is not None:
        read_BTT = choose(layer, found.inputs[layer], attention_target(weights_BHTT)) & causal_TT
        scores_BHTT = scores_BHTT.masked_fill(~read_BTT[:, None], -torch.inf)
    found.read.append(read_BTT)
    return scores_BHTT.softmax(dim=-1) @ v_BHTd
