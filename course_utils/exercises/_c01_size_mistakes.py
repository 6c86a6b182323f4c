"""What learners write in chapter 01 when they count parameters, and what a tutor would say.

The functions are variations of the right computation (`_c01_variations.py`): one option, one slip.
"""

from course_utils.exercises._c01_variations import latent, llama, plain_attention, sparse
from course_utils.exercises.spec import WrongAnswer

LLAMA_PARAMETERS = (
    WrongAnswer(
        "GQA counted as MHA",
        llama(groups="num_attention_heads"),
        "You give every query head its own keys and values. In grouped-query attention (GQA) "
        "there are only num_key_value_heads of them: k_proj and v_proj are D x G d.",
        also=(
            llama(square=4),
            llama(groups="num_attention_heads", norms=0, last_norm=0),
            llama(square=4, norms=0, last_norm=0),
        ),
    ),
    WrongAnswer(
        "tied head counted twice",
        llama(tables=lambda tied: 2),
        "With tie_word_embeddings the head IS the embedding's table, stored once. Count V x D "
        "a second time only when it is false.",
        also=(llama(tables=lambda tied: 2, norms=0, last_norm=0),),
    ),
    WrongAnswer(
        "head forgotten",
        llama(tables=lambda tied: 1),
        "Without tie_word_embeddings the head is a table of its own: V x D once more.",
        also=(llama(tables=lambda tied: 1, norms=0, last_norm=0),),
    ),
    WrongAnswer(
        "tables forgotten",
        llama(tables=lambda tied: 0),
        "These are the layers alone. The embedding is a table of V x D, and so is a head that is "
        "not tied.",
        also=(llama(tables=lambda tied: 0, last_norm=0),),
    ),
    WrongAnswer(
        "tied the wrong way round",
        llama(tables=lambda tied: 2 if tied else 1),
        "The other way round: tied means that one table serves twice, so it is stored once.",
    ),
    WrongAnswer(
        "other than three matrices in the feed-forward part",
        llama(matrices=2),
        "SwiGLU has three matrices: gate, up and down. Two was the rule of older models.",
        also=(
            llama(matrices=1),
            llama(matrices=4),
            llama(matrices=2, norms=0, last_norm=0),
        ),
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
        "output from the key-value heads",
        llama(output="num_key_value_heads"),
        "o_proj starts from the query heads: each of the H makes a result, so it is H d x D.",
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
        "norm over the RoPE key",
        latent(extra=lambda c: c["qk_rope_head_dim"]),
        "Nearly: the norm covers the latent alone, kv_lora_rank numbers. The RoPE key is split off "
        "before it.",
    ),
    WrongAnswer(
        "norms of the layer",
        latent(extra=lambda c: c["hidden_size"]),
        "A norm of hidden_size stands before attention, outside of this block. Count the norms of "
        "the latents only.",
        also=(
            latent(extra=lambda c: 2 * c["hidden_size"]),
            latent(extra=lambda c: c["hidden_size"], q_norm=0, kv_norm=0),
            latent(extra=lambda c: 2 * c["hidden_size"], q_norm=0, kv_norm=0),
        ),
    ),
    WrongAnswer(
        "all layers",
        latent(layers=True),
        "These are all layers together. Give one layer's block.",
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
        also=(latent(down_rope=lambda H: 0, q_norm=0, kv_norm=0),),
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
        "values as wide as keys",
        latent(values="qk_nope_head_dim"),
        "You take values to be as wide as keys. They have a width of their own, v_head_dim (the "
        "same in V3, by chance).",
        also=(latent(values="qk_nope_head_dim", output="keys"),),
    ),
    WrongAnswer(
        "output from queries",
        latent(output="queries"),
        "What attention passes on are values: o_proj starts from H x v_head_dim channels.",
        also=(latent(output="keys"),),
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
        also=(
            sparse(shared_total=0, shared_activated=0, router=lambda D, E, k: D * E),
            sparse(shared_total=0, shared_activated=0, router=lambda D, E, k: 0),
            sparse(shared_total=0, shared_activated=0, norms=0, last_norm=0),
        ),
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
        "one shared expert, always",
        sparse(one_shared=True),
        "You count one shared expert. n_shared_experts says how many: V2-Lite has two.",
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
        also=(sparse(router=lambda D, E, k: D * E, norms=0, last_norm=0),),
    ),
    WrongAnswer(
        "router of the chosen experts",
        sparse(router_activated=lambda D, E, k: D * k + k),
        "To choose k experts the router must score all E of them: all of it is activated.",
        also=(
            sparse(router_activated=lambda D, E, k: D * k),
            sparse(router_activated=lambda D, E, k: 0),
            sparse(router_activated=lambda D, E, k: D * k + E),
            sparse(router_activated=lambda D, E, k: D * E),
            sparse(router_activated=lambda D, E, k: D * E + k),
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
        "dense layers not activated",
        sparse(
            idle=lambda c: (
                3 * c["first_k_dense_replace"] * c["hidden_size"] * c["intermediate_size"]
            )
        ),
        "The total is right. Every token passes the dense layers too: they are activated.",
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
        "tables not activated",
        sparse(idle=lambda c: c["vocab_size"] * c["hidden_size"]),
        "The total is right. Some publishers leave tables out of the activated parameters; here "
        "both count in both numbers.",
        also=(sparse(idle=lambda c: 2 * c["vocab_size"] * c["hidden_size"]),),
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
        "one layer with experts",
        sparse(sparse_layers=lambda config: 1),
        "You count router and experts once. Every layer after the dense ones has its own: times "
        "L - first_k_dense_replace.",
    ),
    WrongAnswer(
        "attention forgotten",
        sparse(attention_times=lambda config: 0),
        "`attention` is not in your sum. Every layer has it.",
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
