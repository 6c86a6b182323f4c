"""Choosing the next token from the model's logits.

Temperature divides the logits: below 1 the likely tokens gain, above 1 the unlikely ones, towards 0
only the most likely is left (greedy). Top-p ("nucleus") keeps the fewest tokens that together have
at least probability p, and shares their probability among them.

Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
"""

import torch
from torch import Tensor


def top_p_probabilities(logits_BV: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Probabilities (B, V) from which the next token is drawn; those outside the nucleus are 0.

    Raises ValueError unless temperature > 0 and 0 < top_p <= 1.
    """
    if temperature <= 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature {temperature} must be > 0 (greedy is temperature=0 in `sample`), "
            f"top_p {top_p} in (0, 1]"
        )
    probabilities_BV = (logits_BV / temperature).softmax(dim=-1)
    if top_p == 1:
        return probabilities_BV
    sorted_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV  # what the more likely tokens have together
    kept_BV = torch.where(before_BV < top_p, sorted_BV, 0.0)
    kept_BV = kept_BV / kept_BV.sum(dim=-1, keepdim=True)
    return torch.zeros_like(kept_BV).scatter(-1, order_BV, kept_BV)


def sample(
    logits_BV: Tensor,
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(B,) chosen ids: the most likely at temperature 0, else drawn from the nucleus."""
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    probabilities_BV = top_p_probabilities(logits_BV, temperature, top_p)
    return torch.multinomial(probabilities_BV, 1, generator=generator).squeeze(-1)
