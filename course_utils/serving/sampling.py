"""How one request's tokens are chosen: temperature, top-k, top-p, min-p, from its own generator.

Each request draws from a generator with its own seed, one number a token, so its text does not
depend on who else is in the batch. Filters come in the order of `transformers`: temperature, then
top-k, top-p, min-p. Where only some ids are allowed (constrained decoding), the others have
probability 0 before anything else.

Sources: Holtzman et al. 2020, section 3.1 (top-p); Nguyen et al. 2024, section 3 (min-p).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.generation.sampling import top_p_probabilities
from course_utils.serving.params import SamplingParams


def probabilities(logits_LV: Tensor, params: SamplingParams) -> Tensor:
    """(L, V) from which tokens are drawn; at temperature 0 all on the likeliest id."""
    if params.allowed_ids:
        allowed_LA = logits_LV[:, list(params.allowed_ids)]
        logits_LV = torch.full_like(logits_LV, -torch.inf)
        logits_LV[:, list(params.allowed_ids)] = allowed_LA
    if params.temperature == 0:
        return F.one_hot(logits_LV.argmax(-1), logits_LV.shape[-1]).to(logits_LV.dtype)
    if 0 < params.top_k < logits_LV.shape[-1]:
        least = logits_LV.topk(params.top_k).values[..., -1:]
        logits_LV = logits_LV.masked_fill(logits_LV < least, -torch.inf)
    p_LV = top_p_probabilities(logits_LV, params.temperature, params.top_p)
    if params.min_p:
        p_LV = p_LV * (p_LV >= params.min_p * p_LV.amax(-1, keepdim=True))
        p_LV = p_LV / p_LV.sum(-1, keepdim=True)
    return p_LV
