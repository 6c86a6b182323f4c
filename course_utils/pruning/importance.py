"""How much each part of a model matters, judged on some texts, without training.

    channel of a feed-forward part   how large it is, times how far its column of `down` carries it
    query head                       the same, with its d columns of `o_proj`
    layer                            1 - cosine between what goes in and what comes out
    expert                           how often it is chosen; or how much the output changes without

All are judged at the side where the part WRITES: what a channel adds to the stream is its value
times a column of `down_proj`. The row of `down_proj` with the same number belongs to another
channel, one of the stream.

Left out: gradients (Molchanov et al. 2019), and parts that matter only together.
Sources: Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation"
(Minitron), section 2.2, for activations; Men et al. 2024, "ShortGPT", section 3.2, equation 1.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course_utils.models import DecoderLM, chosen_experts, moe_layers
from course_utils.moe import MoE
from course_utils.pruning.experts import smaller_moe
from course_utils.pruning.weights import expert_rows, watch


def channel_importance(hidden_TF: Tensor, down_DF: Tensor) -> Tensor:
    """Root mean square over tokens of what each channel adds to the output, (F,).

    hidden (T, F) goes into the projection whose weight is down (D, F): channel f adds
    hidden[t, f] * down[:, f], a vector of D numbers; its length counts.
    """
    return hidden_TF.square().mean(0).sqrt() * down_DF.square().sum(0).sqrt()


def head_importance(mixed_TC: Tensor, o_DC: Tensor, head_dim: int) -> Tensor:
    """Root mean square over tokens of what each query head adds to the output, (H,).

    mixed (T, H * d) goes into `o_proj` (D, H * d); head h owns d neighbouring columns.
    """
    mixed_HTd = mixed_TC.unflatten(-1, (-1, head_dim)).transpose(0, 1)
    o_HdD = o_DC.T.unflatten(0, (-1, head_dim))
    return (mixed_HTd @ o_HdD).square().sum(-1).mean(-1).sqrt()


def block_influence(x_TD: Tensor, y_TD: Tensor) -> float:
    """1 - the mean over tokens of the cosine between a token's vector before and after a layer.

    0: the layer turned no vector; 1: what comes out is at right angles to what went in.
    """
    return float(1 - torch.cosine_similarity(x_TD, y_TD, dim=-1).mean())


def channel_scores(
    model: DecoderLM, ids_BT: Tensor, importance: Callable = channel_importance
) -> list[dict[str, Tensor]]:
    """Importance of every feed-forward channel, layer by layer.

    A dense layer has {"mlp": (F,)}; one of experts {"experts": (E, F)}, and with shared experts
    {"shared": (n * F,)}. An expert is judged by the tokens sent to it; one without any has zeros.
    """

    def of_linear(down, inputs: tuple, _: Tensor) -> Tensor:
        return importance(inputs[0].flatten(0, -2), down.weight.detach())

    def of_experts(part, inputs: tuple, _: Tensor) -> Tensor:
        pairs = zip(expert_rows(part, inputs), part.w_down_EFD.detach(), strict=True)
        scores = [importance(h_NF, down_FD.T) for (_, h_NF), down_FD in pairs]
        return torch.stack(scores).nan_to_num(0.0)

    found = []
    for layer in model.model.layers:
        if not isinstance(layer.mlp, MoE):
            found.append({"mlp": (layer.mlp.down_proj, of_linear)})
            continue
        parts = {"experts": (layer.mlp.experts, of_experts)}
        if layer.mlp.shared_experts is not None:
            parts["shared"] = (layer.mlp.shared_experts.down_proj, of_linear)
        found.append(parts)
    looks = {module: look for parts in found for module, look in parts.values()}
    scores = watch(model, list(looks), ids_BT, lambda m, x, y: looks[m](m, x, y))
    by_module = dict(zip(looks, scores, strict=True))
    return [{name: by_module[m] for name, (m, _) in parts.items()} for parts in found]


def head_scores(
    model: DecoderLM, ids_BT: Tensor, importance: Callable = head_importance
) -> list[Tensor]:
    """Importance of every query head, (H,) a layer; for grouped-query attention."""
    width = model.config.head_dim
    modules = [layer.self_attn.o_proj for layer in model.model.layers]
    return watch(
        model,
        modules,
        ids_BT,
        lambda o, x, _: importance(x[0].flatten(0, -2), o.weight.detach(), width),
    )


def layer_scores(
    model: DecoderLM, ids_BT: Tensor, influence: Callable = block_influence
) -> list[float]:
    """Influence of every layer, first to last."""

    def look(_, inputs: tuple, output: Tensor) -> float:
        return influence(inputs[0].flatten(0, -2), output.flatten(0, -2))

    return watch(model, list(model.model.layers), ids_BT, look)


def expert_loads(model: DecoderLM, ids_BT: Tensor) -> Tensor:
    """Share of the tokens' places that each expert takes, (layers, E); rows sum to 1."""
    chosen_LNK = chosen_experts(model, ids_BT).flatten(1)
    choices = model.config.moe.num_choices
    counts = torch.stack([torch.bincount(row, minlength=choices) for row in chosen_LNK])
    return counts / chosen_LNK.shape[1]


def expert_changes(model: DecoderLM, ids_BT: Tensor) -> Tensor:
    """How much a layer's output changes without each expert, (layers, E), as a share of its length.

    Without it: the expert is cut out, so its tokens go to their next best. Root mean square over
    all tokens, divided by that of the output.
    """

    def look(layer: MoE, inputs: tuple, output: Tensor) -> Tensor:
        x_TD, y_TD = inputs[0].flatten(0, -2), output.flatten(0, -2)
        everyone = range(layer.config.num_experts)
        changes = [
            (smaller_moe(layer, [e for e in everyone if e != out])(x_TD) - y_TD).norm()
            for out in everyone
        ]
        return torch.stack(changes) / y_TD.norm()

    return torch.stack(watch(model, moe_layers(model), ids_BT, look))


def keep_best(scores: Tensor | Sequence[float], count: int) -> list[int]:
    """The places of the `count` highest scores, in order. Raises ValueError for too many."""
    scores = torch.as_tensor(scores)
    if not 1 <= count <= len(scores):
        raise ValueError(f"{count} of {len(scores)} cannot be kept: choose from 1 to all")
    return sorted(scores.argsort(descending=True, stable=True)[:count].tolist())


def best_heads(scores_H: Tensor, kv_heads: int, groups: int, each: int) -> list[int]:
    """Query heads to keep: of `groups` key-value heads, the `each` best query heads of every one.

    The groups with the highest sum of scores (of the heads that would stay) are kept.
    """
    by_group = torch.as_tensor(scores_H).unflatten(0, (kv_heads, -1))
    size = by_group.shape[1]
    best = [keep_best(scores, each) for scores in by_group]
    sums = [float(scores[chosen].sum()) for scores, chosen in zip(by_group, best, strict=True)]
    return [g * size + head for g in keep_best(sums, groups) for head in best[g]]
