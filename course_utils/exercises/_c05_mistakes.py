"""Wrong answers to the exercises of chapter 05 about the layer: cutting, sharing, weighing."""

from dataclasses import replace

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer
from course_utils.layers import swiglu
from course_utils.moe import MoEConfig, rules

# ---- cutting experts


def _cut(config: MoEConfig, pieces: int, **changes) -> MoEConfig:
    """The right cut with some fields otherwise; like it, it refuses widths that do not divide."""
    if config.moe_intermediate_size % pieces:
        raise ValueError(f"{pieces} does not divide the width {config.moe_intermediate_size}")
    right = {
        "num_experts": config.num_experts * pieces,
        "num_experts_per_tok": config.num_experts_per_tok * pieces,
        "moe_intermediate_size": config.moe_intermediate_size // pieces,
        "n_shared_experts": config.n_shared_experts * pieces,
    }
    return replace(config, **(right | changes))


def _taken(config: MoEConfig, pieces: int, shared: int, experts: int, chosen: int, **changes):
    """As `_cut`, with `experts` fewer to choose from, `chosen` fewer chosen, `shared` more."""
    numbers = {
        "num_experts": config.num_experts * pieces - experts,
        "num_experts_per_tok": config.num_experts_per_tok * pieces - chosen,
        "n_shared_experts": config.n_shared_experts * pieces + shared,
    }
    return _cut(config, pieces, **(numbers | changes))


def _anew(config: MoEConfig, pieces: int, shared: int = 0) -> MoEConfig:
    """A new config from the four sizes alone."""
    right = _taken(config, pieces, shared, shared, shared)
    return MoEConfig(
        right.num_experts,
        right.num_experts_per_tok,
        right.moe_intermediate_size,
        n_shared_experts=right.n_shared_experts,
    )


def _rounded(config: MoEConfig, pieces: int, shared: int = 0) -> MoEConfig:
    return replace(
        config,
        num_experts=config.num_experts * pieces - shared,
        num_experts_per_tok=config.num_experts_per_tok * pieces - shared,
        moe_intermediate_size=config.moe_intermediate_size // pieces,
        n_shared_experts=config.n_shared_experts * pieces + shared,
    )


SPLIT_EXPERTS = (
    WrongAnswer(
        "width not cut",
        lambda c, m, s=0: _taken(c, m, s, s, s, moe_intermediate_size=c.moe_intermediate_size),
        "The pieces are as wide as the experts were: the layer has become m times as large. Divide "
        "moe_intermediate_size by m.",
    ),
    WrongAnswer(
        "as few chosen as before",
        lambda c, m, s=0: _taken(
            c, m, s, s, s, num_experts_per_tok=max(1, c.num_experts_per_tok - s)
        ),
        "A token still takes as many experts as before, each m times narrower, so it gets an m-th "
        "of the computation. It must take m times as many pieces.",
        also=(lambda c, m, s=0: _taken(c, m, s, s, s, num_experts_per_tok=c.num_experts_per_tok),),
    ),
    WrongAnswer(
        "shared ones on top",
        lambda c, m, s=0: _taken(c, m, s, 0, 0),
        "The shared pieces come on top of all others, so a token uses more than before. They are "
        "taken out of the experts to choose from, and out of the number that is chosen.",
    ),
    WrongAnswer(
        "shared ones still counted as chosen",
        lambda c, m, s=0: _taken(c, m, s, s, 0),
        "The shared pieces are out of the pool, but a token still chooses as many as before and "
        "gets the shared ones as well: more computation than before. Choose `shared` fewer.",
    ),
    WrongAnswer(
        "shared ones still in the pool",
        lambda c, m, s=0: _taken(c, m, s, 0, s),
        "Fewer are chosen, but the router still has all pieces to choose from, and the shared ones "
        "exist once more: more parameters than before. Take `shared` out of num_experts.",
    ),
    WrongAnswer(
        "shared ones left out",
        lambda c, m, s=0: _cut(c, m),
        "`shared` is not used. That many pieces are always on: n_shared_experts grows by it, "
        "num_experts and num_experts_per_tok shrink by it.",
    ),
    WrongAnswer(
        "shared ones taken out before the cut",
        lambda c, m, s=0: _taken(c, m, s, m * s, m * s),
        "You subtract first and multiply then, so m times too many are taken out. `shared` counts "
        "pieces: multiply by m first.",
    ),
    WrongAnswer(
        "earlier shared experts forgotten",
        lambda c, m, s=0: _taken(c, m, s, s, s, n_shared_experts=s),
        "A config that had shared experts before has lost them: n_shared_experts was overwritten. "
        "They are cut as well, m pieces each, and the new ones are added.",
    ),
    WrongAnswer(
        "earlier shared experts not cut",
        lambda c, m, s=0: _taken(c, m, s, s, s, n_shared_experts=c.n_shared_experts + s),
        "Shared experts that were there before have the width of an expert too, so they shrink "
        "with it. Each of them becomes m pieces: n_shared_experts * m + shared.",
    ),
    WrongAnswer(
        "the rest of the config forgotten",
        _anew,
        "Sizes are right, but a rule of the old config is gone, such as norm_topk_prob or "
        "routed_scaling_factor. Change the four sizes and keep the rest: dataclasses.replace.",
    ),
    WrongAnswer(
        "width rounded",
        _rounded,
        "When the pieces do not divide the width, // rounds it down and some of each expert is "
        "lost without a word. Raise ValueError.",
    ),
)


# ---- a shared expert


def _shared(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return swiglu(x @ gate, x @ up) @ down


def _share(x: Tensor, g: Tensor | None) -> Tensor | float:
    return 1.0 if g is None else torch.sigmoid(x @ g)[:, None]


def _mixed(x, routed, gate, up, down, g=None):
    """A convex mixture with a gate, a sum without."""
    shared, share = _shared(x, gate, up, down), _share(x, g)
    return routed + shared if g is None else share * shared + (1 - share) * routed


def _not_without_gate(x, routed, gate, up, down, g=None):
    return routed if g is None else routed + _share(x, g) * _shared(x, gate, up, down)


def _raw_gate(x, routed, gate, up, down, g=None):
    shared = _shared(x, gate, up, down)
    return routed + (shared if g is None else (x @ g)[:, None] * shared)


def _softmax_gate(x, routed, gate, up, down, g=None):
    share = 1.0 if g is None else (x @ g)[:, None].softmax(-1)
    return routed + share * _shared(x, gate, up, down)


ADD_SHARED_EXPERT = (
    WrongAnswer(
        "nothing without a gate",
        _not_without_gate,
        "Without a gate nothing is added. No gate means that the shared output counts in full.",
    ),
    WrongAnswer(
        "no sigmoid",
        _raw_gate,
        "The gate's product is used as it is, so it may be negative or large. Its sigmoid lies "
        "between 0 and 1.",
    ),
    WrongAnswer(
        "softmax of one number",
        _softmax_gate,
        "Softmax over the single gate value of a token is always 1: the gate has no effect, and "
        "gets no gradient. Use the sigmoid.",
    ),
    WrongAnswer(
        "softmax over the tokens",
        lambda x, routed, gate, up, down, g=None: (
            routed
            + (1.0 if g is None else (x @ g).softmax(0)[:, None]) * _shared(x, gate, up, down)
        ),
        "The gate is normalised over the tokens, so one token's output depends on its neighbours. "
        "Each token has its own gate: the sigmoid of its own product.",
    ),
    WrongAnswer(
        "a gate for each channel",
        lambda x, routed, gate, up, down, g=None: (
            routed + (1.0 if g is None else torch.sigmoid(x * g)) * _shared(x, gate, up, down)
        ),
        "x * gate is a number for each channel. The gate of a token is one number, the sum of "
        "them: x_TD @ gate_D.",
    ),
    WrongAnswer(
        "a row in place of a column",
        lambda x, routed, gate, up, down, g=None: (
            routed + (1.0 if g is None else torch.sigmoid(x @ g)) * _shared(x, gate, up, down)
        ),
        "sigmoid(x_TD @ gate_D) has shape (T,), and PyTorch lines it up with the channels. "
        "[:, None] makes it a column, one number for each token.",
    ),
    WrongAnswer(
        "routed output forgotten",
        lambda x, routed, gate, up, down, g=None: _share(x, g) * _shared(x, gate, up, down),
        "Only the shared output comes back. It is added to what the routed experts gave.",
    ),
    WrongAnswer(
        "gate on everything",
        lambda x, routed, gate, up, down, g=None: (
            _share(x, g) * (routed + _shared(x, gate, up, down))
        ),
        "The gate multiplies the routed output as well. It belongs to the shared expert alone.",
    ),
    WrongAnswer(
        "gate on the routed experts",
        lambda x, routed, gate, up, down, g=None: (
            _share(x, g) * routed + _shared(x, gate, up, down)
        ),
        "The gate multiplies the routed output. It belongs to the shared expert.",
    ),
    WrongAnswer(
        "either or",
        _mixed,
        "You divide 1 between shared and routed experts. The routed output is added in full; only "
        "the shared one is scaled.",
    ),
    WrongAnswer(
        "gate on the input",
        lambda x, routed, gate, up, down, g=None: (
            routed + _shared(_share(x, g) * x, gate, up, down)
        ),
        "The gate scales what goes into the shared expert. SwiGLU is not linear, so that differs "
        "from scaling what comes out.",
    ),
    WrongAnswer(
        "gate and up swapped",
        lambda x, routed, gate, up, down, g=None: (
            routed + _share(x, g) * _shared(x, up, gate, down)
        ),
        "SiLU is applied to the up projection. swiglu takes the gate projection first: "
        "silu(x @ w_gate) * (x @ w_up).",
    ),
    WrongAnswer(
        "the token added as well",
        lambda x, routed, gate, up, down, g=None: (
            x + routed + _share(x, g) * _shared(x, gate, up, down)
        ),
        "You add the token itself too. The decoder layer does that, once, outside the experts.",
    ),
    WrongAnswer(
        "mean of the two",
        lambda x, routed, gate, up, down, g=None: (
            (routed + _share(x, g) * _shared(x, gate, up, down)) / 2
        ),
        "You take the mean. Routed and shared outputs are added, nothing is halved.",
    ),
)


# ---- weights by family


def _from_logits(config: MoEConfig) -> bool:
    return config.scoring_func == "softmax_of_chosen"


def _scores(logits: Tensor, scores: Tensor, experts: Tensor, config: MoEConfig) -> Tensor:
    """Before the scaling: right up to here for every family."""
    if _from_logits(config):
        return logits.gather(-1, experts).softmax(-1)
    weights = scores.gather(-1, experts)
    return rules.renormalize(weights, config.moe_norm_min) if config.norm_topk_prob else weights


def _always(logits, scores, experts, config):
    if _from_logits(config):
        return _scores(logits, scores, experts, config) * config.routed_scaling_factor
    weights = rules.renormalize(scores.gather(-1, experts), config.moe_norm_min)
    return weights * config.routed_scaling_factor


def _never(logits, scores, experts, config):
    if _from_logits(config):
        return _scores(logits, scores, experts, config) * config.routed_scaling_factor
    return scores.gather(-1, experts) * config.routed_scaling_factor


def _scale_cancels(logits, scores, experts, config):
    if _from_logits(config):
        return _scores(logits, scores, experts, config)
    weights = scores.gather(-1, experts) * config.routed_scaling_factor
    return rules.renormalize(weights, config.moe_norm_min) if config.norm_topk_prob else weights


def _over_all(logits, scores, experts, config):
    if _from_logits(config):
        return _scores(logits, scores, experts, config) * config.routed_scaling_factor
    weights = scores.gather(-1, experts)
    if config.norm_topk_prob:
        weights = weights / scores.sum(-1, keepdim=True).clamp(min=config.moe_norm_min)
    return weights * config.routed_scaling_factor


def _no_floor(logits, scores, experts, config):
    if _from_logits(config):
        return _scores(logits, scores, experts, config) * config.routed_scaling_factor
    weights = scores.gather(-1, experts)
    if config.norm_topk_prob:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * config.routed_scaling_factor


def _floor_added(logits, scores, experts, config):
    if _from_logits(config):
        return _scores(logits, scores, experts, config) * config.routed_scaling_factor
    weights = scores.gather(-1, experts)
    if config.norm_topk_prob:
        weights = weights / (weights.sum(-1, keepdim=True) + config.moe_norm_min)
    return weights * config.routed_scaling_factor


def _own_top_k(logits, scores, experts, config):
    k = experts.shape[-1]
    if _from_logits(config):
        return logits.topk(k, dim=-1).values.softmax(-1) * config.routed_scaling_factor
    weights = scores.topk(k, dim=-1).values
    if config.norm_topk_prob:
        weights = rules.renormalize(weights, config.moe_norm_min)
    return weights * config.routed_scaling_factor


def _softmax_twice(logits, scores, experts, config):
    if _from_logits(config):
        return scores.gather(-1, experts).softmax(-1) * config.routed_scaling_factor
    return _scores(logits, scores, experts, config) * config.routed_scaling_factor


def _no_gpt_oss(logits, scores, experts, config):
    weights = scores.gather(-1, experts)
    if config.norm_topk_prob and not _from_logits(config):
        weights = rules.renormalize(weights, config.moe_norm_min)
    return weights * config.routed_scaling_factor


def _over_tokens(logits, scores, experts, config):
    if _from_logits(config):
        return _scores(logits, scores, experts, config) * config.routed_scaling_factor
    weights = scores.gather(-1, experts)
    if config.norm_topk_prob:
        weights = weights / weights.sum(0, keepdim=True).clamp(min=config.moe_norm_min)
    return weights * config.routed_scaling_factor


def _always_softmax(logits, scores, experts, config):
    return _scores(logits, logits.softmax(-1), experts, config) * config.routed_scaling_factor


def _fixed_floor(logits, scores, experts, config):
    small = replace(config, moe_norm_min=1e-20)
    return _scores(logits, scores, experts, small) * config.routed_scaling_factor


WEIGH = (
    WrongAnswer(
        "floor not the config's",
        _fixed_floor,
        "The sum is taken as at least config.moe_norm_min. You use a fixed small number: "
        "rules.renormalize(weights_TK) alone takes 1e-20.",
    ),
    WrongAnswer(
        "divided over the tokens",
        _over_tokens,
        "You sum over the tokens, so a token's weights depend on its neighbours. Sum over its own "
        "k experts: the last dimension.",
    ),
    WrongAnswer(
        "softmax whatever the config says",
        _always_softmax,
        "You make softmax scores of the logits yourself. scores_TE are already what the family "
        "uses, sigmoids for DeepSeek-V3.",
    ),
    WrongAnswer(
        "always renormalised",
        _always,
        "You divide by the sum in every family. Qwen1.5-MoE and DeepSeek-V2 do not: there the "
        "weights are the scores themselves. norm_topk_prob decides.",
    ),
    WrongAnswer(
        "never renormalised",
        _never,
        "You never divide by the sum of the k weights. With norm_topk_prob they must sum to 1 "
        "before the scaling.",
    ),
    WrongAnswer(
        "scaled before the division",
        _scale_cancels,
        "You scale first and divide by the sum then, so the factor cancels. Scale last; the "
        "weights of a token then sum to routed_scaling_factor.",
    ),
    WrongAnswer(
        "scale forgotten",
        _scores,
        "routed_scaling_factor is missing. It is 2.5 in DeepSeek-V3: without it the routed experts "
        "count too little beside the shared one.",
    ),
    WrongAnswer(
        "divided by the sum of all",
        _over_all,
        "You divide by the sum over all E experts. The weights of the k chosen ones must sum to 1.",
    ),
    WrongAnswer(
        "no floor",
        _no_floor,
        "When all k scores are nearly zero, the sum is too, and you get NaN or enormous weights. "
        "The sum is taken as at least moe_norm_min.",
    ),
    WrongAnswer(
        "floor added to the sum",
        _floor_added,
        "You add moe_norm_min to every sum, so the weights sum to less than 1. It is the least "
        "that the sum is taken for: clamp(min=...). With 1e-20 the two are the same.",
    ),
    WrongAnswer(
        "the largest scores",
        _own_top_k,
        "You take the k largest scores. With a routing bias or groups, other experts may have been "
        "chosen, in another order: gather the scores of experts_TK.",
    ),
    WrongAnswer(
        "softmax of the scores",
        _softmax_twice,
        'For "softmax_of_chosen" you take softmax of scores, which are a softmax already. gpt-oss '
        "takes it of the chosen LOGITS.",
    ),
    WrongAnswer(
        "softmax over all kept",
        _no_gpt_oss,
        'For "softmax_of_chosen" you leave the scores of the softmax over all E. The softmax runs '
        "over the k chosen logits, so the weights sum to 1.",
    ),
)
