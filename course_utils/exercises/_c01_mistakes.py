"""What learners write in chapter 01 when it is not right, each with what a tutor would say.

The functions are variations of the right computation (`_c01_variations.py`): one option, one slip.
"""

import math
from typing import Any

from course_utils.accounting.conventions import fitting_conventions
from course_utils.exercises._c01_variations import (
    cached,
    latent,
    llama,
    plain_attention,
    sparse,
    trained,
    width,
)
from course_utils.exercises.spec import WrongAnswer

LLAMA_PARAMETERS = (
    WrongAnswer(
        "GQA counted as MHA",
        llama(groups="num_attention_heads"),
        "You give every query head its own keys and values. In grouped-query attention (GQA) "
        "there are only num_key_value_heads of them: k_proj and v_proj are D x G d.",
        also=(llama(square=4),),
    ),
    WrongAnswer(
        "tied head counted twice",
        llama(tables=lambda tied: 2),
        "With tie_word_embeddings the head IS the embedding's table, stored once. Count V x D "
        "a second time only when it is false.",
    ),
    WrongAnswer(
        "head forgotten",
        llama(tables=lambda tied: 1),
        "Without tie_word_embeddings the head is a table of its own: V x D once more.",
    ),
    WrongAnswer(
        "tied the wrong way round",
        llama(tables=lambda tied: 2 if tied else 1),
        "The other way round: tied means that one table serves twice, so it is stored once.",
    ),
    WrongAnswer(
        "two matrices in the feed-forward part",
        llama(matrices=2),
        "SwiGLU has three matrices: gate, up and down. Two was the rule of older models.",
    ),
    WrongAnswer(
        "norms forgotten",
        llama(norms=0, last_norm=0),
        "Nearly: the norms are missing. Each is a vector of D, two in every layer and one at "
        "the end. Small, but the published sizes are exact.",
    ),
    WrongAnswer(
        "final norm forgotten",
        llama(last_norm=0),
        "Nearly: one norm is missing, D numbers, between the last layer and the head.",
    ),
    WrongAnswer(
        "one norm a layer",
        llama(norms=1),
        "Nearly: a layer has two norms, one before attention and one before the feed-forward part.",
    ),
    WrongAnswer(
        "keys or values missing",
        llama(key_values=1),
        "Keys and values are two matrices, k_proj and v_proj: D x G d twice.",
    ),
    WrongAnswer(
        "output projection missing",
        llama(query_output=1),
        "Attention ends with o_proj, which brings the H d channels of all heads back to D.",
    ),
    WrongAnswer(
        "head_dim ignored",
        llama(head=lambda c: c["hidden_size"] // c["num_attention_heads"]),
        "You always divide hidden_size by the heads. Where the config has head_dim, that "
        "counts: in Qwen3-0.6B it is 128, and 1024 // 16 is 64. head_width(config) does both.",
    ),
    WrongAnswer(
        "head_dim expected",
        llama(head=lambda c: c["head_dim"]),
        "Older configs have no head_dim; then it is hidden_size // num_attention_heads. "
        "head_width(config) does both.",
        also=(llama(head=lambda c: c.get("head_dim")),),
    ),
    WrongAnswer(
        "one layer",
        llama(layers=False),
        "This is a model with one layer. All layers are alike: multiply by num_hidden_layers.",
    ),
    WrongAnswer(
        "in billions",
        llama(scale=1e-9),
        "These are billions. Return the number itself: the last digits are the point.",
    ),
)

MLA_PARAMETERS = (
    WrongAnswer(
        "norms of the latents forgotten",
        latent(q_norm=0, kv_norm=0),
        "Nearly: each latent passes a norm before it goes up, a vector as long as the latent: "
        "q_lora_rank and kv_lora_rank numbers.",
    ),
    WrongAnswer(
        "norm of the key-value latent forgotten",
        latent(kv_norm=0),
        "Nearly: the latent of keys and values passes a norm too: kv_lora_rank numbers.",
    ),
    WrongAnswer(
        "norm of the query latent forgotten",
        latent(q_norm=0),
        "Nearly: the query latent passes a norm too: q_lora_rank numbers, where there is one.",
    ),
    WrongAnswer(
        "ordinary attention",
        plain_attention,
        "This counts full matrices for queries, keys, values and output. MLA goes down to a "
        "latent (D x rank) and up from it (rank x heads): two thin matrices for a wide one.",
    ),
    WrongAnswer(
        "a RoPE key for every head",
        latent(down_rope=lambda H: H),
        "You give each head its own RoPE key. There is one for all heads: kv_a_proj goes from "
        "D to kv_lora_rank + qk_rope_head_dim.",
    ),
    WrongAnswer(
        "no RoPE key",
        latent(down_rope=lambda H: 0),
        "The key that carries RoPE is missing. It does not pass through the latent: "
        "kv_a_proj makes both, D x (kv_lora_rank + qk_rope_head_dim).",
    ),
    WrongAnswer(
        "queries without RoPE",
        latent(query_rope=0),
        "A query head has qk_nope_head_dim + qk_rope_head_dim channels. You left out the second.",
    ),
    WrongAnswer(
        "RoPE out of the latent",
        latent(up_rope=1),
        "kv_b_proj makes keys without RoPE and values: H x (nope + v). The RoPE key comes "
        "straight from the token.",
        also=(latent(up_rope=1, down_rope=lambda H: 0),),
    ),
    WrongAnswer(
        "values forgotten on the way up",
        latent(up_values=0),
        "From the latent come keys AND values: kv_lora_rank x H x (nope + v_head_dim).",
    ),
    WrongAnswer(
        "keys forgotten on the way up",
        latent(up_nope=0),
        "From the latent come keys AND values: kv_lora_rank x H x (qk_nope_head_dim + v).",
    ),
    WrongAnswer(
        "one latent for keys, one for values",
        latent(latents=lambda H: 2),
        "Keys and values share one latent: D x kv_lora_rank stands once. That is the point of "
        "it: one small vector is kept, and both are rebuilt from it.",
    ),
    WrongAnswer(
        "a latent for every head",
        latent(latents=lambda H: H),
        "You count a latent for each head. There is one for all heads: D x kv_lora_rank once.",
        also=(latent(latents=lambda H: H, down_rope=lambda H: H),),
    ),
    WrongAnswer(
        "output as D x D",
        latent(output="width"),
        "o_proj starts from all heads' values: H x v_head_dim channels (16,384 in V3), not D.",
    ),
    WrongAnswer(
        "output forgotten",
        latent(output="none"),
        "o_proj is missing: H x v_head_dim channels back to D. In V3 it is the largest matrix.",
    ),
    WrongAnswer(
        "null is no number",
        latent(no_rank="none"),
        "q_lora_rank may be null (None in Python): V2-Lite makes its queries with one matrix, "
        "D x H (nope + rope), without a norm. Ask for None first.",
    ),
    WrongAnswer(
        "null taken for zero",
        latent(no_rank="zero"),
        "Without q_lora_rank your queries vanish. V2-Lite makes them with one matrix, "
        "D x H (nope + rope), without a norm.",
    ),
)

MOE_PARAMETERS = (
    WrongAnswer(
        "shared experts forgotten",
        sparse(shared_total=0, shared_activated=0),
        "The shared experts are missing: every token uses them, beside its k routed ones. They "
        "belong to both numbers.",
    ),
    WrongAnswer(
        "shared experts not activated",
        sparse(shared_activated=0),
        "The total is right. The shared experts run for every token, beside the k: activated "
        "are k + shared.",
    ),
    WrongAnswer(
        "shared experts not stored",
        sparse(shared_total=0),
        "The shared experts come on top of the n_routed_experts: stored are E + shared.",
    ),
    WrongAnswer(
        "router forgotten",
        sparse(router=lambda D, E, k: 0),
        "The router is missing: a matrix D x E in every MoE layer, and a bias for each expert.",
    ),
    WrongAnswer(
        "correction bias forgotten",
        sparse(router=lambda D, E, k: D * E),
        "Nearly: beside its matrix the router stores one correction bias for each expert: E "
        "more in every MoE layer.",
    ),
    WrongAnswer(
        "router of the chosen experts",
        sparse(router_activated=lambda D, E, k: D * k + k),
        "To choose k experts the router must score all E of them: all of it is activated.",
        also=(
            sparse(router_activated=lambda D, E, k: D * k),
            sparse(router_activated=lambda D, E, k: 0),
            sparse(router_activated=lambda D, E, k: D * k + E),
        ),
    ),
    WrongAnswer(
        "every layer has experts",
        sparse(dense="sparse"),
        "You give experts to all layers. The first first_k_dense_replace are dense: one SwiGLU "
        "of intermediate_size each. (Kimi K2's published 1.04T look like this slip.)",
    ),
    WrongAnswer(
        "dense layers without their feed-forward part",
        sparse(dense="skipped"),
        "The first layers have no experts, but they have one SwiGLU of intermediate_size each.",
    ),
    WrongAnswer(
        "dense layers as wide as an expert",
        sparse(dense="moe_intermediate_size"),
        "Two widths: a dense layer has intermediate_size (18,432 in V3), an expert "
        "moe_intermediate_size (2,048).",
    ),
    WrongAnswer(
        "head forgotten",
        sparse(tables=1),
        "There are two tables of V x D: the embedding, and the head. Both are counted here, in "
        "both numbers.",
    ),
    WrongAnswer(
        "tables forgotten",
        sparse(tables=0),
        "Embedding and head are missing, V x D each. Some publishers leave them out; this "
        "function counts everything.",
    ),
    WrongAnswer(
        "norms forgotten",
        sparse(norms=0, last_norm=0),
        "Nearly: two norms of D in each layer, and one at the end.",
        also=(sparse(norms=0), sparse(last_norm=0), sparse(norms=1)),
    ),
    WrongAnswer(
        "two matrices in an expert",
        sparse(matrices=2),
        "An expert is a SwiGLU: three matrices, gate, up and down.",
    ),
    WrongAnswer(
        "everything activated",
        sparse(activated="all"),
        "Your activated number is the total. Of E routed experts a token uses k: only those count.",
    ),
    WrongAnswer(
        "a share of everything",
        sparse(activated="share"),
        "You take k / E of the whole model. Only the routed experts are chosen among; "
        "attention, tables and shared experts are used by every token.",
    ),
    WrongAnswer(
        "attention once",
        sparse(attention_times=lambda config: 1),
        "`attention` is one layer's. Every layer has it, the dense ones too: times L.",
        also=(
            sparse(attention_times=lambda c: c["num_hidden_layers"] - c["first_k_dense_replace"]),
        ),
    ),
    WrongAnswer(
        "order of the two",
        sparse(swapped=True),
        "Both numbers are right. Return the total first, then the activated ones.",
    ),
)

KV_BYTES_PER_TOKEN = (
    WrongAnswer(
        "GQA counted as MHA",
        cached(groups="num_attention_heads"),
        "You keep a key and a value for every query head. Query heads share them: only "
        "num_key_value_heads are kept.",
    ),
    WrongAnswer(
        "the whole width",
        cached(whole_width=True),
        "2 x hidden_size numbers a layer was true of old models, where heads x head_dim was D "
        "and nothing was shared. Count key-value heads times head_dim.",
    ),
    WrongAnswer(
        "keys without values",
        cached(pairs=1),
        "Kept are keys AND values: a factor of 2 with grouped queries. (A latent serves both, "
        "so there it is 1.)",
    ),
    WrongAnswer(
        "latent without the RoPE part",
        cached(latent=lambda c: c["kv_lora_rank"]),
        "With MLA two things are kept: the latent, and the one key that carries RoPE. Add "
        "qk_rope_head_dim.",
    ),
    WrongAnswer(
        "latent for keys and again for values",
        cached(latent=lambda c: 2 * (c["kv_lora_rank"] + c["qk_rope_head_dim"])),
        "You count the latent twice. Keys and values are both rebuilt from the same one: no "
        "factor of 2 with MLA.",
        also=(
            cached(latent=lambda c: 2 * c["kv_lora_rank"] + c["qk_rope_head_dim"]),
            cached(latent=lambda c: 2 * c["kv_lora_rank"]),
        ),
    ),
    WrongAnswer(
        "latent for every head",
        cached(
            latent=lambda c: c["num_attention_heads"] * (c["kv_lora_rank"] + c["qk_rope_head_dim"])
        ),
        "You keep a latent for each head. All heads share one latent, and one RoPE key.",
        also=(
            cached(latent=lambda c: c["num_attention_heads"] * c["kv_lora_rank"]),
            cached(
                latent=lambda c: (
                    c["kv_lora_rank"] + c["num_attention_heads"] * c["qk_rope_head_dim"]
                )
            ),
            cached(
                latent=lambda c: (
                    2 * c["num_attention_heads"] * (c["kv_lora_rank"] + c["qk_rope_head_dim"])
                )
            ),
        ),
    ),
    WrongAnswer(
        "MLA counted as grouped queries",
        cached(latent=lambda c: 2 * c["num_key_value_heads"] * width(c)),
        "This config has kv_lora_rank: keys and values are rebuilt from a latent, and only "
        "that and the RoPE key are kept. Its num_key_value_heads mean nothing here.",
    ),
    WrongAnswer(
        "rebuilt keys and values kept",
        cached(
            latent=lambda c: (
                c["num_attention_heads"]
                * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"] + c["v_head_dim"])
            )
        ),
        "These are the keys and values after they are rebuilt. MLA keeps what they are rebuilt "
        "from: kv_lora_rank + qk_rope_head_dim numbers.",
    ),
    WrongAnswer(
        "query latent kept as well",
        cached(
            latent=lambda c: c["kv_lora_rank"] + c["qk_rope_head_dim"] + (c["q_lora_rank"] or 0)
        ),
        "Queries are used once and never kept: leave q_lora_rank out.",
    ),
    WrongAnswer(
        "one layer",
        cached(layers=False),
        "This is one layer's part. Every layer keeps its own: times num_hidden_layers.",
    ),
    WrongAnswer(
        "numbers instead of bytes",
        cached(scale=lambda bits: 1),
        "These are numbers (elements), not bytes. Each takes `bits` bits, and 8 bits are a byte.",
    ),
    WrongAnswer(
        "bits instead of bytes",
        cached(scale=lambda bits: bits),
        "These are bits. A byte holds 8: divide.",
    ),
    WrongAnswer(
        "always two bytes",
        cached(scale=lambda bits: 2),
        "You always take 2 bytes. Use `bits`: a cache may be kept in 8 or 6 bits.",
    ),
    WrongAnswer(
        "whole bytes per number",
        cached(scale=lambda bits: bits // 8),
        "bits // 8 cuts 6 bits down to no byte at all. Multiply first, then divide by 8.",
    ),
    WrongAnswer(
        "head_dim ignored",
        cached(head=lambda c: c["hidden_size"] // c["num_attention_heads"]),
        "You divide hidden_size by the heads. Where the config has head_dim, that counts: "
        "head_width(config) does both.",
    ),
    WrongAnswer(
        "head_dim expected",
        cached(head=lambda c: c["head_dim"]),
        "Older configs have no head_dim: head_width(config) does both.",
    ),
    WrongAnswer(
        "kilobytes",
        cached(scale=lambda bits: bits / 8 / 1e3),
        "These are kilobytes. Return bytes.",
        also=(cached(scale=lambda bits: bits / 8 / 1024),),
    ),
)

TRAINING_COST = (
    WrongAnswer(
        "total instead of activated",
        trained(which="total"),
        "You train all parameters with every token. A token passes through its activated "
        "parameters alone: N is count.activated. For V3 that is 18 times less.",
    ),
    WrongAnswer(
        "seconds instead of hours",
        trained(seconds=1),
        "These are GPU-seconds. An hour has 3600 of them.",
    ),
    WrongAnswer(
        "minutes instead of hours",
        trained(seconds=60),
        "These are GPU-minutes. An hour has 3600 seconds.",
    ),
    WrongAnswer(
        "forward pass alone",
        trained(passes=2),
        "2 N D is the forward pass. Training goes backward too, which costs twice as much: 6 N D.",
    ),
    WrongAnswer(
        "no factor of 6",
        trained(passes=1),
        "N D is missing its 6: two operations (multiply, add) for each parameter, in the "
        "forward pass and twice in the backward pass.",
        also=(trained(passes=3),),
    ),
    WrongAnswer(
        "MFU left out",
        trained(used=lambda share: 1),
        "You take the chip at its peak. Only the share `mfu` of it is used, so the run takes "
        "longer.",
    ),
    WrongAnswer(
        "MFU on the wrong side",
        trained(used=lambda share: 1 / share),
        "You multiply the hours by mfu. Less of the peak used means MORE hours: divide by "
        "peak_flops * mfu.",
    ),
    WrongAnswer(
        "MFU in percent",
        trained(used=lambda share: share / 100),
        "mfu is a share already, 0.35 for 35%: no division by 100.",
        also=(trained(used=lambda share: share * 100),),
    ),
    WrongAnswer(
        "peak in TFLOPS",
        trained(peak=1e12),
        "peak_flops is in operations a second already (989e12), not in TFLOPS.",
        also=(trained(peak=1e-12),),
    ),
    WrongAnswer(
        "order of the two",
        trained(swapped=True),
        "Both numbers are right. Return the hours first, then the dollars.",
    ),
    WrongAnswer(
        "days instead of hours",
        trained(seconds=86400),
        "These are GPU-days. Rent is paid by the hour: 3600 seconds.",
    ),
)


def _fits(test: Any) -> Any:
    """An answer that keeps the names for which test(billions, printed) is true."""
    return lambda printed, counts: [
        name for name, count in counts.items() if test(count / 1e9, printed)
    ]


def _decimals(printed: str) -> int:
    return len(printed.partition(".")[2])


def _cut(number: float, decimals: int) -> str:
    return f"{math.floor(number * 10**decimals) / 10**decimals:.{decimals}f}"


def _nearest(printed: str, counts: dict[str, int]) -> str:
    return min(counts, key=lambda name: abs(counts[name] / 1e9 - float(printed)))


FITTING_CONVENTIONS = (
    WrongAnswer(
        "always the nearest",
        lambda printed, counts: [_nearest(printed, counts)],
        "You take the nearest, so there is always one. A figure that nothing rounds to is the "
        "interesting case: return an empty list, and several names where several fit.",
    ),
    WrongAnswer(
        "cut off instead of rounded",
        _fits(lambda number, printed: _cut(number, _decimals(printed)) == printed),
        "You cut the digits off. 10.76 printed without decimals is 11: round.",
        also=(_fits(lambda number, printed: str(number).startswith(printed)),),
    ),
    WrongAnswer(
        "whole billions",
        _fits(lambda number, printed: round(number) == round(float(printed))),
        "You compare whole billions. Printed decimals are a promise: 36.7 stands for 36.65 to "
        "36.75.",
    ),
    WrongAnswer(
        "one decimal, always",
        _fits(lambda number, printed: round(number, 1) == float(printed)),
        "You always round to one decimal. Round to as many as were printed: none for "
        '"10", two for "5.13".',
        also=(_fits(lambda number, printed: f"{number:.1f}" == printed),),
    ),
    WrongAnswer(
        "within a percent",
        _fits(lambda number, printed: abs(number / float(printed) - 1) <= 0.01),
        "You allow one percent. How much a figure allows, it says itself: half a unit of its "
        "last digit.",
        also=(
            _fits(lambda number, printed: abs(number / float(printed) - 1) <= 0.02),
            _fits(lambda number, printed: abs(number / float(printed) - 1) <= 0.05),
        ),
    ),
    WrongAnswer(
        "no rounding",
        _fits(lambda number, printed: number == float(printed)),
        "You compare the exact count with a rounded figure: hardly ever equal. Round the count "
        "to as many decimals as are printed.",
        also=(_fits(lambda number, printed: str(number) == printed),),
    ),
    WrongAnswer(
        "only the first",
        lambda printed, counts: fitting_conventions(printed, counts)[:1],
        "You stop at the first that fits. Several may: return all of them.",
    ),
    WrongAnswer(
        "2**30 for a billion",
        lambda printed, counts: [
            name
            for name, count in counts.items()
            if f"{count / 2**30:.{_decimals(printed)}f}" == printed
        ],
        "A billion parameters is 1e9. 2**30 is for memory.",
    ),
    WrongAnswer(
        "counts instead of names",
        lambda printed, counts: [counts[name] for name in fitting_conventions(printed, counts)],
        "You return the counts. Return the names of the conventions: the keys of the dict.",
    ),
)
