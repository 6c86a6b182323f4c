"""Teacher logits in packed form: the k likeliest tokens of each position, and the rest as one lump.

Full logits over 4096 tokens in 32 bits weigh 16 KB a position; more than the text by a factor of
thousands. Kept are the ids of the k likeliest tokens (2 bytes each), their log-probabilities
(float16, 2 bytes) and the log of the probability left over (2 bytes): 4 k + 2 bytes.

The student is compared with the same k + 1 outcomes: each kept token, and "any other". Lumping
outcomes together can only lower a KL divergence, exactly by (left-over mass) x KL of the two tails.
Dropping the left-over instead would tell the student that all other tokens are impossible, or,
renormalised, that the kept ones are likelier than the teacher says.

The log-probabilities are those at one temperature: the left-over at another cannot be had from
them. Left out: sampling ids in place of the k likeliest, which is unbiased where this is not
(Anshumann et al. 2025, "Sparse Logit Sampling").
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

IDS = torch.uint16
LARGEST_VOCABULARY = 1 << 16


@dataclass(frozen=True)
class PackedLogits:
    """ids (..., T, K) uint16, log_probs (..., T, K) and rest (..., T): the log of the left-over."""

    ids_BTK: Tensor
    log_probs_BTK: Tensor
    rest_BT: Tensor
    temperature: float = 1.0

    def __getitem__(self, rows) -> "PackedLogits":
        """The same for some of the sequences."""
        parts = self.ids_BTK[rows], self.log_probs_BTK[rows], self.rest_BT[rows]
        return PackedLogits(*parts, self.temperature)

    def to(self, device: torch.device | str) -> "PackedLogits":
        parts = {name: getattr(self, name).to(device) for name in ("ids_BTK", "log_probs_BTK")}
        return replace(self, rest_BT=self.rest_BT.to(device), **parts)

    @property
    def nbytes(self) -> int:
        """Bytes of the three tensors."""
        return sum(t.nbytes for t in (self.ids_BTK, self.log_probs_BTK, self.rest_BT))

    def outcomes(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the k + 1 outcomes in float32: (..., K) and (...,).

        Rounded to 16 bits they no longer add up to 1 exactly, so they are normalised again.
        """
        both = torch.cat([self.log_probs_BTK, self.rest_BT[..., None]], dim=-1)
        both = both.float().log_softmax(dim=-1)
        return both[..., :-1], both[..., -1]


def pack_top_k(
    logits_BTV: Tensor, k: int, temperature: float = 1.0, dtype: torch.dtype = torch.float16
) -> PackedLogits:
    """The k likeliest tokens of each position at `temperature`, and the log of what is left over.

    Raises ValueError unless 1 <= k < V (with k = V nothing is left over) and V <= 65,536.
    """
    V = logits_BTV.shape[-1]
    if not 1 <= k < V:
        raise ValueError(f"k is {k}: it must be at least 1 and less than the vocabulary, {V}")
    if V > LARGEST_VOCABULARY:
        raise ValueError(f"the vocabulary has {V} tokens: ids of 16 bits end at {1 << 16}")
    log_probs_BTV = (logits_BTV.float() / temperature).log_softmax(dim=-1)
    top_BTK, ids_BTK = log_probs_BTV.topk(k, dim=-1)
    rest_BT = log_probs_BTV.scatter(-1, ids_BTK, -torch.inf).logsumexp(dim=-1)
    return PackedLogits(ids_BTK.to(IDS), top_BTK.to(dtype), rest_BT.to(dtype), temperature)


def top_k_kl(
    student_logits_BTV: Tensor, ids_BTK: Tensor, log_probs_BTK: Tensor, rest_BT: Tensor
) -> Tensor:
    """KL(teacher, student) over k + 1 outcomes, the kept tokens and "any other": (..., V) to (...).

    log_probs (..., K) are the teacher's for the tokens ids (..., K); rest (...) the log of the mass
    that it gives to all others. In nats.
    """
    student_BTV = student_logits_BTV.log_softmax(dim=-1)
    student_BTK = student_BTV.gather(-1, ids_BTK)
    student_rest_BT = student_BTV.scatter(-1, ids_BTK, -torch.inf).logsumexp(dim=-1)
    kept_BT = (log_probs_BTK.exp() * (log_probs_BTK - student_BTK)).sum(dim=-1)
    return kept_BT + rest_BT.exp() * (rest_BT - student_rest_BT)


def packed_kl(student_logits_BTV: Tensor, packed: PackedLogits, temperature: float = 1.0) -> Tensor:
    """Forward KL against packed teacher logits, for `distillation_loss(divergence=packed_kl)`.

    Raises ValueError at another temperature than the one that they were packed at.
    """
    if temperature != packed.temperature:
        raise ValueError(
            f"the logits were packed at temperature {packed.temperature}, and the loss asks for "
            f"{temperature}: pack them anew, since the left-over mass depends on it"
        )
    log_probs_BTK, rest_BT = packed.outcomes()
    ids_BTK = packed.ids_BTK.long()
    return top_k_kl(student_logits_BTV / temperature, ids_BTK, log_probs_BTK, rest_BT)
