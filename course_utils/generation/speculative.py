"""Speculative decoding: a draft proposes, the target checks all proposals in one pass.

A decoding step is slow because it reads every weight for one token. Checking K draft tokens and the
newest one together reads the weights once, and gives the target's probabilities at K + 1 places.
What does not agree is thrown away: the cache goes back to the last token that was kept. The text is
the target's own: the same ids as greedy decoding, or, sampled, the same distribution. The draft
decides only how fast it comes.

Greedy ids are the same as long as the likeliest token is not tied: one pass over several tokens
adds in another order than several passes, so two logits closer than rounding may change places.

Left out: batches, where sequences keep different numbers of tokens (chapter 16), and copies of a
cache that cannot go back: with a full window or a state, `truncate` raises ValueError.

Source: Leviathan et al. 2023, algorithm 1; Chen et al. 2023, algorithm 2.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.generation.acceptance import (
    accept_or_replace,
    accepted_prefix,
    draw,
    verify_greedy,
    verify_sampled,
)
from course_utils.generation.drafts import Draft, Proposal
from course_utils.generation.sampling import top_p_probabilities
from course_utils.models.decoder import DecoderLM


@dataclass(frozen=True)
class Choice:
    """How tokens are chosen, by draft and target alike: greedy at temperature 0, else sampled.

    `uniform()` gives independent numbers in [0, 1). `prefix` and `accept` are the rules that keep
    or replace draft tokens.
    """

    uniform: Callable[[], float]
    temperature: float = 0.0
    top_p: float = 1.0
    prefix: Callable = accepted_prefix
    accept: Callable = accept_or_replace

    def probabilities(self, logits_LV: Tensor) -> Tensor:
        """(L, V) from which tokens are drawn; at temperature 0 all on the likeliest id."""
        if self.temperature == 0:
            return F.one_hot(logits_LV.argmax(-1), logits_LV.shape[-1]).to(logits_LV.dtype)
        return top_p_probabilities(logits_LV, self.temperature, self.top_p)

    def choose(self, logits_V: Tensor) -> tuple[int, Tensor]:
        """An id, and the distribution (V,) that it was drawn from."""
        p_V = self.probabilities(logits_V)
        return (int(p_V.argmax()) if self.temperature == 0 else draw(p_V, self.uniform())), p_V

    def verify(self, proposal: Proposal, logits_LV: Tensor) -> Tensor:
        """The 1 to K + 1 ids that a round yields."""
        ids_K = proposal.ids_K
        if self.temperature == 0:
            return verify_greedy(ids_K, logits_LV.argmax(-1), self.prefix)
        p_LV = self.probabilities(logits_LV)
        return verify_sampled(ids_K, proposal.q_KV, p_LV, self.uniform, self.accept)


@dataclass
class Speculation:
    """The new ids, and for each round how many tokens were proposed and how many kept."""

    ids_T: Tensor
    proposed: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def tokens_per_round(self) -> float:
        """New tokens for each pass of the target, the pass over the prompt and its token aside."""
        return sum(self.accepted) / max(1, len(self.accepted)) + 1

    def acceptance(self, place: int) -> float:
        """Of the tokens proposed at this place (from 1) whose predecessors were kept, the share
        that was kept too; nan when there were none."""
        rounds = zip(self.proposed, self.accepted, strict=True)
        reached = [kept >= place for asked, kept in rounds if asked >= place and kept >= place - 1]
        return sum(reached) / len(reached) if reached else float("nan")


def generate_speculative(
    model: DecoderLM,
    prompt_T: Tensor,
    new_tokens: int,
    draft: Draft,
    k: int = 3,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    uniform: Callable[[], float] | None = None,
    **rules: Callable,
) -> Speculation:
    """`new_tokens` ids after prompt (T,), at most k of them proposed by the draft in each round.

    `rules` (prefix, accept) go to `Choice`. Numbers for sampling come from `uniform`, or from a
    generator with the seed. Raises ValueError when the text does not fit the context, or k < 1.
    """
    end = len(prompt_T) + new_tokens
    _check(model, prompt_T, new_tokens, k)
    generator = torch.Generator().manual_seed(seed)
    uniform = uniform or (lambda: float(torch.rand((), generator=generator)))
    choice = Choice(uniform, temperature, top_p, **rules)
    cache = model.new_cache(capacity=end)
    draft.begin(end)
    with torch.no_grad():
        hidden_ND = model.hidden(prompt_T[None], cache)[0]
        first, _ = choice.choose(model.logits(hidden_ND[-1]))
        text_T = torch.cat([prompt_T, prompt_T.new_tensor([first])])
        result = Speculation(text_T)
        while len(text_T) < end:
            room = end - len(text_T) - 1  # a round yields one token more than it accepts
            proposal = draft.propose(text_T, hidden_ND, min(k, room), choice.choose)
            checked_L = torch.cat([text_T[-1:], proposal.ids_K])
            hidden_ND = model.hidden(checked_L[None], cache)[0]
            new_N = choice.verify(proposal, model.logits(hidden_ND))
            text_T, hidden_ND = torch.cat([text_T, new_N]), hidden_ND[: len(new_N)]
            cache.truncate(len(text_T) - 1)  # all but the newest, which was never passed
            result.proposed.append(len(proposal.ids_K))
            result.accepted.append(len(new_N) - 1)
    result.ids_T = text_T[len(prompt_T) :]
    return result


def _check(model: DecoderLM, prompt_T: Tensor, new_tokens: int, k: int) -> None:
    if prompt_T.dim() != 1 or not len(prompt_T) or new_tokens < 1 or k < 1:
        raise ValueError(
            f"prompt of shape {tuple(prompt_T.shape)}, {new_tokens} new tokens, k = {k}: the "
            "prompt is one dimension of at least one id, and the numbers are at least 1"
        )
    limit = model.config.max_position_embeddings
    if len(prompt_T) + new_tokens > limit:
        raise ValueError(
            f"a prompt of {len(prompt_T)} tokens and {new_tokens} new ones exceed the context of "
            f"{limit} (max_position_embeddings): shorten the prompt or ask for fewer tokens"
        )
