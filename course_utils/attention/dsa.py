"""How the indexer of DeepSeek Sparse Attention learns: by imitating attention.

Choosing has no gradient, so the language loss teaches an indexer nothing. Its target is what dense
attention does: p_t, the attention weights of all heads added up and divided by their sum. The loss
is KL(p_t || softmax(I_t)), averaged over queries.

    1. dense     attention reads everything; only the indexer learns, to say what attention reads
    2. sparse    attention reads what is chosen; the model learns from the language loss and the
                 indexer from the same KL over the chosen tokens, separately: its inputs are
                 detached, so that no gradient of one reaches the other

Left out: the first stage's larger learning rate and its length, which are a matter of the run.
Source: DeepSeek-V3.2-Exp report, section 2.1.1, equations 3 and 4.
"""

import torch
from torch import Tensor, nn

from course_utils.attention.gqa import causal_mask
from course_utils.attention.mla import LatentAttention


def indexer_kl(target_BTS: Tensor, scores_BTS: Tensor, mask_BTS: Tensor) -> Tensor:
    """KL(target || softmax of the scores over the tokens in `mask`), averaged over queries.

    Shapes (B, T, S), the mask (T, S) or (B, T, S). Every query's target sums to 1 and is 0 outside
    the mask.
    """
    log_chosen_BTS = scores_BTS.masked_fill(~mask_BTS, -torch.inf).log_softmax(dim=-1)
    log_chosen_BTS = log_chosen_BTS.masked_fill(~mask_BTS, 0.0)  # not 0 x infinity
    kl_BTS = torch.special.xlogy(target_BTS, target_BTS) - target_BTS * log_chosen_BTS
    return kl_BTS.sum(dim=-1).mean()


def attention_target(weights_BHTS: Tensor) -> Tensor:
    """p (B, T, S): attention weights added up over heads, divided by their sum."""
    sum_BTS = weights_BHTS.sum(dim=1)
    return sum_BTS / sum_BTS.sum(dim=-1, keepdim=True)


@torch.no_grad()
def latent_weights(
    attention: LatentAttention, q_BHTd: Tensor, rows_BSC: Tensor, mask: Tensor
) -> Tensor:
    """softmax of latent attention's scores (B, H, T, S), without gradients."""
    w_uk_HNR, _ = attention.up_projections()
    rank, nope = w_uk_HNR.shape[2], w_uk_HNR.shape[1]
    k_BHSN = torch.einsum("bsr,hnr->bhsn", rows_BSC[..., :rank], w_uk_HNR)
    scores_BHTS = (
        q_BHTd[..., :nope] @ k_BHSN.mT + q_BHTd[..., nope:] @ rows_BSC[:, None, :, rank:].mT
    )
    return (scores_BHTS * attention.scale).masked_fill(~mask, -torch.inf).softmax(dim=-1)


def layer_loss(
    attention: LatentAttention,
    x_BTD: Tensor,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """The KL of one layer on its input; over the chosen tokens, if its `index_topk` is set."""
    indexer, T = attention.indexer, x_BTD.shape[1]
    with torch.no_grad():
        latent_BTQ = attention.query_latent(x_BTD)
        q_BHTd, rows_BTC = attention.queries(latent_BTQ, cos, sin), attention.rows(x_BTD, cos, sin)
    keys_BTd = indexer.keys(x_BTD, cos, sin)
    scores_BTT = indexer.scores(x_BTD, latent_BTQ, cos, sin, keys_BTd)
    seen = causal_mask(T, T, x_BTD.device) if mask is None else mask
    seen_BTT = (seen[:, 0] if seen.dim() == 4 else seen).expand_as(scores_BTT)
    if indexer.index_topk is not None:
        seen_BTT = indexer.select(scores_BTT.detach(), indexer.index_topk, seen_BTT)
    weights_BHTT = latent_weights(attention, q_BHTd, rows_BTC, seen_BTT[:, None])
    return indexer_kl(attention_target(weights_BHTT), scores_BTT, seen_BTT)


def indexer_loss(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """The mean KL of the model's indexers on a batch of texts.

    The model runs once without gradients, as it attends now; every layer with an indexer is then
    asked again on what went into it. Raises ValueError when no layer has one.
    """
    inputs: list[tuple] = []
    layers = sparse_layers(model)
    if not layers:
        raise ValueError("no layer has an indexer: give the config's mla an `index`")
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given: inputs.append((layer, *given[:4])))
        for layer in layers
    ]
    try:
        with torch.no_grad():
            model(ids_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([layer_loss(*given) for given in inputs]).mean()


def sparse_layers(model: nn.Module) -> list[LatentAttention]:
    """The layers that have an indexer, first to last."""
    found = [part for part in model.modules() if isinstance(part, LatentAttention)]
    return [layer for layer in found if layer.indexer is not None]


def set_index_topk(model: nn.Module, k: int | None) -> None:
    """Let every indexer choose k tokens; None: attention reads everything, the dense stage."""
    if k is not None and k < 1:
        raise ValueError(f"k is {k}: attention must read at least 1 token, or None for all")
    for layer in sparse_layers(model):
        layer.indexer.index_topk = k


def indexer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The weights that `indexer_loss` trains, and the language loss does not."""
    return [weight for layer in sparse_layers(model) for weight in layer.indexer.parameters()]
