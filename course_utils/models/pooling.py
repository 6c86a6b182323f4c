"""Fewer key-value heads for a trained model: the heads of each new group are averaged.

A model with H heads of keys and values becomes one with G: head g of the new projections is the
mean of the H / G old heads whose queries now share it. Quality falls, and a short training repairs
most of it: GQA's authors spent a twentieth of the original training.

Source: Ainslie et al. 2023, "GQA" (arXiv 2305.13245), section 2.1. Left out: choosing which heads
to merge by what they do.
"""

from dataclasses import replace

import torch
from torch import Tensor

from course_utils.models.decoder import DecoderLM


def pool_heads(weight_CD: Tensor, heads: int, groups: int) -> Tensor:
    """A projection to `heads` heads becomes one to `groups`: neighbouring heads are averaged.

    Shapes: weight (heads * d, D), the result (groups * d, D); groups divides heads.
    """
    weight_GPdD = weight_CD.unflatten(0, (groups, heads // groups, -1))
    return weight_GPdD.mean(dim=1).flatten(0, 1)


@torch.no_grad()
def pool_kv_heads(model: DecoderLM, kv_heads: int, **parts) -> DecoderLM:
    """The model with `kv_heads` key-value heads; `parts` (norm, rope, ...) go to `DecoderLM`.

    Raises ValueError for a model without grouped-query attention, or where the number does not
    divide the one it has.
    """
    config = model.config
    heads = config.num_key_value_heads
    if config.mla is not None or config.layer_types is not None:
        raise ValueError("only a model with grouped-query attention in every layer has such heads")
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"kv_heads is {kv_heads}: it must divide the {heads} that there are")
    weights = model.state_dict()
    for name, weight in weights.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            weights[name] = pool_heads(weight, heads, kv_heads)
    pooled = DecoderLM(replace(config, num_key_value_heads=kv_heads), **parts)
    pooled.to(model.lm_head.weight.device, model.lm_head.weight.dtype)
    pooled.load_state_dict(weights)
    return pooled.train(model.training)
