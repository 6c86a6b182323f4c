"""What keeps a router from sending everything to a few experts: three losses and one bias.

The losses add a gradient that pulls the router's probabilities towards even use. The bias needs no
gradient: it is added to the scores where experts are chosen, and nowhere else, and moves by a fixed
step against each expert's load.

Normalisation. `load_balancing_loss` is E * sum_e f_e P_e for ONE layer, with f_e the share of the
T * k assignments that expert e got, and P_e its mean probability. Even use gives 1, complete
collapse onto k experts E / k, whatever k is. Megatron-LM's value is the same. `transformers` leaves
out the division by k (even use gives k), and pools all layers before it multiplies:
`pooled_load_balancing_loss` shows what this hides.

Only P has a gradient; f is a count. So the loss pushes down the probability of experts in
proportion to their load. Left out: counts that are summed over devices before they are used.

Sources: Fedus et al. 2021, "Switch Transformers", equations 4-6 (k = 1); Zoph et al. 2022,
"ST-MoE", equation 5; Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy for
Mixture-of-Experts", algorithm 1; DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 2.1.2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_utils.moe.load import expert_counts


def load_balancing_loss(experts_TK: Tensor, probabilities_TE: Tensor) -> Tensor:
    """The auxiliary loss of one layer: E * sum_e f_e P_e, a scalar.

    experts_TK: the chosen experts; probabilities_TE: the router's, each row sums to 1 (those of all
    experts, not only of the chosen). 1 at even use, E / k at complete collapse. Raises ValueError
    without tokens. Source: Fedus et al. 2021, equation 4, with f divided by k.
    """
    if len(experts_TK) == 0:
        raise ValueError("no tokens: the balance of an empty batch is not defined")
    E = probabilities_TE.shape[-1]
    f_E = expert_counts(experts_TK, E).to(probabilities_TE.dtype) / experts_TK.numel()
    P_E = probabilities_TE.mean(0)
    return E * (f_E * P_E).sum()


def pooled_load_balancing_loss(
    layers_TK: Sequence[Tensor], probabilities_TE: Sequence[Tensor]
) -> Tensor:
    """The loss as `transformers` computes it: layers pooled first, not divided by k.

    One tensor per layer. Layers that collapse onto different experts look balanced together.
    Equal to `load_balancing_loss_func` of Mixtral and Qwen3-MoE; config key `router_aux_loss_coef`.
    """
    k = layers_TK[0].shape[-1]
    return k * load_balancing_loss(torch.cat(tuple(layers_TK)), torch.cat(tuple(probabilities_TE)))


def sequence_balance_loss(experts_BTK: Tensor, scores_BTE: Tensor) -> Tensor:
    """Balance within each sequence: sum_e f_e P_e of every sequence, averaged over them, a scalar.

    f_e = E / (k T) * count of e in the sequence; P_e = mean of the scores divided by their sum over
    the experts, so scores may be sigmoids. 1 at even use. Equation 18 counts the top k by score;
    here what was chosen counts, as in Megatron-LM (`seq_aux_loss`), so a bias moves f.
    Source: DeepSeek-V3, equations 17-20; there times a very small alpha, 0.0001.
    """
    if 0 in experts_BTK.shape:
        raise ValueError(f"experts have shape {tuple(experts_BTK.shape)}: there are no tokens")
    shares_BTE = scores_BTE / scores_BTE.sum(-1, keepdim=True)
    losses = [
        load_balancing_loss(experts_TK, shares_TE)
        for experts_TK, shares_TE in zip(experts_BTK, shares_BTE, strict=True)
    ]
    return torch.stack(losses).mean()


def router_z_loss(logits_TE: Tensor) -> Tensor:
    """Mean square of logsumexp of the router's logits, a scalar: keeps logits small.

    Large logits lose their differences to rounding in 16 bits, and a softmax that is nearly one-hot
    learns slowly. It does not balance. Source: Zoph et al. 2022, equation 5; there times 0.001.
    """
    return logits_TE.float().logsumexp(-1).square().mean()


def update_bias(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    """The next bias (E,): up by `speed` for experts below the mean load, down above it.

    `counts_E` are the tokens of each expert in the last batch. The changes are then centred, so
    that the mean of the bias stays where it is: only differences choose. DeepSeek-V3 does not say
    that it centres; torchtitan does. The argument is not changed.
    Source: Wang et al. 2024, algorithm 1; DeepSeek-V3, section 2.1.2, speed gamma = 0.001.
    """
    loads_E = counts_E.double()
    change_E = speed * torch.sign(loads_E.mean() - loads_E).to(bias_E.dtype)
    return bias_E + change_E - change_E.mean()
