"""Operations: of a prompt, of one more token, of training; and how many a byte of memory feeds.

A multiplication with an addition is two operations, so a matrix product costs two per element for
each token. Attention adds a score and a sum for every visible token. A text of T tokens that is
read causally sees 1, 2, ... T of them: half of T^2 and a little.

    a token      2 x (elements of the activated matrices) + what reading the cache costs
    training     three times the forward pass: one for the activations, one for the weights
    6 N D        the same without attention, with parameters instead of matrix elements

Left out: norms, activation functions, softmax, routing of tokens between devices; recomputation.
Sources: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, for 2 N and 6 N D; DeepSeek-V2
(arXiv 2405.04434), section 2.1 and appendix C, for latents read without expanding them.
"""

from course_utils.accounting.spec import ModelSpec
from course_utils.accounting.tensors import HEAD


def product_elements(spec: ModelSpec, head: bool = True) -> int:
    """Elements of all matrices that a token is multiplied by; a tied head is multiplied by too."""
    found = sum(w.activated * n for w, n in spec.weights() if w.product and w.part != HEAD)
    return found + (spec.table if head else 0)


def decode_flops(spec: ModelSpec, context: int, absorbed: bool = True) -> int:
    """Operations of one token that sees `context` tokens; latents are read without expanding."""
    return 2 * product_elements(spec) + attention_flops(spec, context, absorbed)


def attention_flops(spec: ModelSpec, context: int, absorbed: bool = False) -> int:
    """Operations of reading `context` tokens once, in all layers."""
    return sum(
        times * sum(span.at(context) for span in layer.attention.reads(absorbed))
        for layer, times, _ in spec.groups
    )


def causal_attention_flops(spec: ModelSpec, tokens: int) -> int:
    """Operations of reading for a whole text in which token i sees i tokens."""
    return sum(
        times * sum(span.up_to(tokens) for span in layer.attention.reads())
        for layer, times, _ in spec.groups
    )


def prefill_flops(spec: ModelSpec, tokens: int, causal: bool = True, logits: int = 1) -> int:
    """Operations of a prompt of `tokens` tokens, of which `logits` need the head.

    causal False counts the full square of scores, as kernels without masks compute it.
    """
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}: a prompt has at least 1")
    whole = tokens * attention_flops(spec, tokens)
    reading = causal_attention_flops(spec, tokens) if causal else whole
    products = tokens * product_elements(spec, head=False) + logits * spec.table
    return 2 * products + reading


def training_flops_per_token(spec: ModelSpec, sequence: int, causal: bool = True) -> float:
    """Operations of training on one token of texts of `sequence` tokens: forward and backward."""
    return 3 * prefill_flops(spec, sequence, causal, logits=sequence) / sequence


def six_n_d(parameters: float, tokens: float) -> float:
    """6 N D: the rule of thumb for training; N are the parameters that a token uses."""
    return 6 * parameters * tokens


def touched_parameters(spec: ModelSpec, batch: int) -> float:
    """Parameters that a decoding step reads for `batch` tokens, on average.

    Tokens that choose k of E experts at random leave an expert untouched with (1 - k/E)^batch.
    Of the embedding only the tokens' rows are read.
    """
    total = 0.0
    for weight, times in spec.weights():
        if weight.name == "embed_tokens":
            rows = min(batch, spec.vocab_size) * spec.hidden_size
            total += spec.table if spec.tie_word_embeddings else rows
        else:
            share = 1 - (1 - weight.active / weight.copies) ** batch
            total += weight.total * times * share
    return total


def decode_intensity(
    spec: ModelSpec, batch: int, context: int, weight_bits: float = 16, cache_bits: float = 16
) -> float:
    """Operations per byte that a decoding step reads: weights once, each text's cache once."""
    from course_utils.accounting.cache import cache_elements

    if batch < 1:
        raise ValueError(f"batch is {batch}: give 1 or more")
    bits = touched_parameters(spec, batch) * weight_bits
    bits += batch * cache_elements(spec, context) * cache_bits
    return batch * decode_flops(spec, context) / (bits / 8)
