"""Speculative decoding gives the target's text: greedy ids, and the exact sampled distribution."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.attention import IndexerConfig, LinearAttentionConfig, MLAConfig
from course_utils.generation import (
    ModelDraft,
    MTPDraft,
    MTPModule,
    NgramDraft,
    generate_greedy,
    generate_speculative,
)
from course_utils.generation.drafts import Proposal, common_length, continuation
from course_utils.models import DecoderLM, ModelConfig

some = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
V, CONTEXT = 11, 40


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Large random weights in float64, norms included, so that the text varies."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.double().parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator).double())
    return module.eval()


def tiny(seed: int, layers: int = 2, **kind) -> DecoderLM:
    config = ModelConfig(V, 8, 12, layers, 4, 2, 4, CONTEXT, tie_word_embeddings=False, **kind)
    return randomise(DecoderLM(config), seed)


class Noisy:
    """The target's own next tokens as draft, some replaced: every number of kept tokens occurs."""

    def __init__(self, model: DecoderLM, seed: int):
        self.inner, self.generator = ModelDraft(model), torch.Generator().manual_seed(seed)

    def begin(self, capacity):
        self.inner.begin(capacity)

    def propose(self, text_T, hidden_ND, k, choose):
        proposal = self.inner.propose(text_T, hidden_ND, k, choose)
        wrong = torch.rand(len(proposal.ids_K), generator=self.generator) < 0.3
        return Proposal((proposal.ids_K + wrong.long()) % V, proposal.q_KV)


def drafts(model: DecoderLM, seed: int) -> dict:
    mtp = randomise(MTPModule(model.config), seed + 1)
    return {
        "mtp": MTPDraft(model, mtp),
        "ngram": NgramDraft(V),
        "other model": ModelDraft(tiny(seed + 2, layers=1)),
        "same model": ModelDraft(model),
        "noisy": Noisy(model, seed),
    }


@some
@given(seeds, st.integers(1, 8), st.integers(1, 20), st.integers(1, 5))
def test_greedy_text_is_the_targets_with_every_draft(seed, length, new_tokens, k):
    model = tiny(seed)
    prompt_T = torch.randint(V, (length,), generator=torch.Generator().manual_seed(seed))
    expected = generate_greedy(model, prompt_T, new_tokens)
    for name, draft in drafts(model, seed).items():
        for _ in range(2):  # the second time with what the draft remembers of the first
            result = generate_speculative(model, prompt_T, new_tokens, draft, k)
            assert torch.equal(result.ids_T, expected), name
        kept = sum(result.accepted)
        assert 1 + kept + len(result.accepted) == new_tokens
        assert all(a <= b <= k for a, b in zip(result.accepted, result.proposed, strict=True))
        if name == "same model":
            assert result.accepted == result.proposed


LATENT = MLAConfig(6, 4, 4, 5, q_lora_rank=7)
KINDS = {
    "latent": {"mla": LATENT},
    "sparse latent": {"mla": replace(LATENT, index=IndexerConfig(2, 8, 4))},
    "a window that is not yet full": {
        "layer_types": ("sliding_attention", "full_attention"),
        "sliding_window": CONTEXT,
    },
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seeds, st.integers(1, 8), st.integers(1, 20), st.integers(1, 5))
def test_greedy_text_is_that_of_a_target_with_a_layered_cache(kind, seed, length, new_tokens, k):
    model = tiny(seed, **KINDS[kind])
    prompt_T = torch.randint(V, (length,), generator=torch.Generator().manual_seed(seed))
    expected = generate_greedy(model, prompt_T, new_tokens)
    for name, draft in drafts(model, seed).items():
        result = generate_speculative(model, prompt_T, new_tokens, draft, k)
        assert torch.equal(result.ids_T, expected), name


@pytest.mark.parametrize("dropped", ["sliding_attention", "linear_attention"])
def test_a_target_that_cannot_go_back_says_so(dropped):
    delta = LinearAttentionConfig("gated_deltanet", 1, 1, 4, 4)
    sizes = {"sliding_window": 3} if dropped == "sliding_attention" else {"linear": delta}
    model = tiny(4, layer_types=(dropped, "full_attention"), **sizes)
    with pytest.raises(ValueError, match=r"cannot go back from .* layer 0 keeps"):
        generate_speculative(model, torch.tensor([1, 2, 3]), 20, Noisy(tiny(4), 4), 3)


def test_the_noisy_draft_loses_tokens_at_every_place():
    model = tiny(3)
    result = generate_speculative(model, torch.tensor([1, 2]), 30, Noisy(model, 3), 3)
    assert {0, 1, 3} <= set(result.accepted)


def test_the_target_passes_once_a_round():
    model, calls = tiny(5), []
    hidden = model.hidden
    model.hidden = lambda ids, cache=None: calls.append(ids.shape[1]) or hidden(ids, cache)
    result = generate_speculative(model, torch.tensor([1, 2, 3]), 13, ModelDraft(tiny(5)), 3)
    assert calls == [3, 4, 4, 4] and result.accepted == [3, 3, 3]
    assert result.tokens_per_round() == 4.0
    assert result.acceptance(1) == 1.0 and result.acceptance(4) != result.acceptance(4)


# ---- the sampled distribution, by enumeration of every number that chance can give


class Table:
    """A target over V = 3 whose next distribution depends on the last two tokens of its cache.

    Probabilities are 0, 1/2 and 1, so uniform numbers in [0, 1/2) and [1/2, 1) are all that count:
    with p and q of this kind, so are p / q and the residual's.
    """

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.config = ModelConfig(3, 8, 8, 1, 1, 1, 8, max_position_embeddings=20)
        self.p = torch.zeros(9, 3)
        for row in self.p:
            row[torch.randint(3, (2,), generator=generator)] = 0.5
            row /= row.sum()

    class Memory:
        def __init__(self):
            self.ids = []

        def truncate(self, length):
            assert length <= len(self.ids)
            del self.ids[length:]

        @property
        def length(self):
            return len(self.ids)

    def new_cache(self, batch=1, capacity=None):
        return self.Memory()

    def hidden(self, ids_BT, cache):
        codes = []
        for token in ids_BT[0].tolist():
            codes.append(3 * (cache.ids[-1] if cache.ids else 0) + token)
            cache.ids.append(token)
        return torch.tensor(codes)[None, :, None]

    def logits(self, code_TD):
        return self.p[code_TD.squeeze(-1)].log()

    def __call__(self, ids_BT, cache, last_only=False):
        logits = self.logits(self.hidden(ids_BT, cache)[0])[None]
        return logits[:, -1:] if last_only else logits


def exact(run) -> dict[tuple, Fraction]:
    """Distribution of run(uniform) over all sequences of numbers 1/4 and 3/4."""
    found, path = Counter(), []
    while True:
        asked = 0

        def uniform():
            nonlocal asked
            if asked == len(path):
                path.append(0.25)
            asked += 1
            return path[asked - 1]

        found[run(uniform)] += Fraction(1, 2 ** len(path))
        assert asked == len(path)
        while path and path[-1] == 0.75:
            path.pop()
        if not path:
            return dict(found)
        path[-1] = 0.75


def targets_distribution(model: Table, prompt: list[int], new: int) -> dict[tuple, Fraction]:
    """By the definition: the product of the conditional probabilities."""
    texts = {(): Fraction(1)}
    for _ in range(new):
        longer = {}
        for text, weight in texts.items():
            last = [0, *prompt, *text][-2:]
            row = model.p[3 * last[0] + last[1]]
            for token in range(3):
                if row[token] > 0:
                    longer[(*text, token)] = weight * Fraction(float(row[token]))
        texts = longer
    return texts


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["other model", "ngram"])
@pytest.mark.parametrize("k", [1, 2])
def test_sampled_text_has_exactly_the_targets_distribution(seed, kind, k):
    model, prompt = Table(seed), [1, 2, 1]
    draft = ModelDraft(Table(seed + 100)) if kind == "other model" else NgramDraft(3)

    def run(uniform):
        result = generate_speculative(
            model, torch.tensor(prompt), 4, draft, k, temperature=1.0, uniform=uniform
        )
        return tuple(result.ids_T.tolist())

    assert exact(run) == targets_distribution(model, prompt, 4)


def test_a_rule_that_is_wrong_is_found_by_the_enumeration():
    model, prompt = Table(0), [1, 2, 1]

    def by_argmax(token, p_V, q_V, u_accept, u_draw):
        best = int(p_V.argmax())
        return best, best == token

    def run(uniform):
        draft = ModelDraft(Table(100))
        options = {"temperature": 1.0, "uniform": uniform, "accept": by_argmax}
        result = generate_speculative(model, torch.tensor(prompt), 4, draft, 2, **options)
        return tuple(result.ids_T.tolist())

    assert exact(run) != targets_distribution(model, prompt, 4)


# ---- drafts


def test_ngrams_take_the_longest_and_latest_occurrence():
    assert continuation([1, 2, 3, 9, 1, 2, 4, 8, 1, 2], 3) == [4, 8, 1, 2]
    assert continuation([1, 2, 3, 9, 7, 2, 4, 8, 1, 2], 3) == [3, 9, 7, 2, 4, 8, 1, 2]
    assert continuation([5, 6, 7], 3) == []
    assert continuation([5, 5], 3) == [5]
    assert common_length([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_length([], [1]) == 0


def test_bad_calls_are_refused_with_words():
    model = tiny(0)
    for prompt, new, k in (([], 3, 1), ([1], 0, 1), ([1], 3, 0)):
        with pytest.raises(ValueError, match="at least"):
            generate_speculative(model, torch.tensor(prompt), new, NgramDraft(V), k)
    with pytest.raises(ValueError, match="exceed the context of 40"):
        generate_speculative(model, torch.ones(30, dtype=torch.long), 11, NgramDraft(V))


def test_a_text_may_fill_the_context():
    model, prompt_T = tiny(1), torch.tensor([1, 2, 3])
    for draft in drafts(model, 1).values():
        result = generate_speculative(model, prompt_T, CONTEXT - 3, draft, 4)
        assert torch.equal(result.ids_T, generate_greedy(model, prompt_T, CONTEXT - 3))


def test_the_same_seed_draws_the_same_text():
    model, prompt_T = tiny(1), torch.tensor([1, 2, 3])
    one, two, three = (
        generate_speculative(
            model, prompt_T, 20, ModelDraft(tiny(2)), temperature=1.0, top_p=0.9, seed=seed
        ).ids_T
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_the_cache_goes_back_and_only_back():
    cache = tiny(0).new_cache(capacity=8)
    cache.advance(5)
    cache.truncate(3)
    assert cache.length == 3
    for length in (4, -1):
        with pytest.raises(ValueError, match="cannot go back"):
            cache.truncate(length)
