"""The loss of a language model: how surprised it is, on average, by the token that comes next."""

import torch.nn.functional as F
from torch import Tensor


def next_token_loss(logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of logits at position t against the id at position t + 1.

    Shapes: logits (B, T, V) of the model on ids (B, T), T at least 2; the result is a scalar over
    the B * (T - 1) predictions that can be judged: the last position's answer is not known.
    Source: Bengio et al. 2003, section 2; equal to the `loss` of `transformers`' causal models.
    """
    if logits_BTV.shape[:2] != ids_BT.shape or ids_BT.shape[1] < 2:
        raise ValueError(
            f"logits {tuple(logits_BTV.shape)} and ids {tuple(ids_BT.shape)}: expected (B, T, V) "
            "and (B, T) with T at least 2"
        )
    targets_BT = F.pad(ids_BT[:, 1:], (0, 1), value=-100)  # -100: this position is not judged
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=-100)
