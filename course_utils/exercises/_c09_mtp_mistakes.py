"""Wrong answers to the exercises of chapter 09 on the MTP module."""

import torch
import torch.nn.functional as F

from course_utils.exercises.spec import WrongAnswer

# ---- the input


def _join(hidden, ids, table, enorm, hnorm, eh_proj, *, first=1, swap=False, norms="eh"):
    """The right input, with other ids, another order, or other norms."""
    T = hidden.shape[1]
    functions = {"e": enorm, "h": hnorm, "-": lambda x: x}
    embedded = functions[norms[0]](F.embedding(ids[:, first : first + T], table))
    vector = functions[norms[1]](hidden)
    return eh_proj(torch.cat([vector, embedded] if swap else [embedded, vector], dim=-1))


def _norm_outside(hidden, ids, table, enorm, hnorm, eh_proj):
    """One norm over the joined vector, half by half: the norm's weight does not fit 2D."""
    both = torch.cat([F.embedding(ids[:, 1:], table), hidden], dim=-1)
    return eh_proj(enorm(both))


def _added(hidden, ids, table, enorm, hnorm, eh_proj):
    return enorm(F.embedding(ids[:, 1:], table)) + hnorm(hidden)


def _all_ids(hidden, ids, table, enorm, hnorm, eh_proj):
    return eh_proj(torch.cat([enorm(F.embedding(ids, table)), hnorm(hidden)], dim=-1))


def _no_projection(hidden, ids, table, enorm, hnorm, eh_proj):
    return torch.cat([enorm(F.embedding(ids[:, 1:], table)), hnorm(hidden)], dim=-1)


def _along_tokens(hidden, ids, table, enorm, hnorm, eh_proj):
    return eh_proj(torch.cat([enorm(F.embedding(ids[:, 1:], table)), hnorm(hidden)], dim=1))


MTP_INPUT = (
    WrongAnswer(
        "this token's embedding",
        lambda *args: _join(*args, first=0),
        "You embed the token at the same position, which the hidden vector has seen already. The "
        "module is to know one token more: ids[:, 1:].",
    ),
    WrongAnswer(
        "hidden vector first",
        lambda *args: _join(*args, swap=True),
        "The halves stand the other way round: the embedding first, then the hidden vector. Both "
        "can be learned, but a published eh_proj fits one order alone.",
    ),
    WrongAnswer(
        "norms swapped",
        lambda *args: _join(*args, norms="he"),
        "enorm is for the embedding and hnorm for the hidden vector; you use each for the other.",
    ),
    WrongAnswer(
        "no norms",
        lambda *args: _join(*args, norms="--"),
        "Embeddings are small and hidden vectors large, so without the norms one drowns the other.",
    ),
    WrongAnswer(
        "hidden vector not normalised",
        lambda *args: _join(*args, norms="e-"),
        "The hidden vector goes in as it is: pass it through hnorm.",
    ),
    WrongAnswer(
        "embedding not normalised",
        lambda *args: _join(*args, norms="-h"),
        "The embedding goes in as it is: pass it through enorm.",
    ),
    WrongAnswer(
        "one norm for both",
        lambda *args: _join(*args, norms="ee"),
        "enorm is used for both halves. The hidden vector has its own, hnorm.",
        also=(lambda *args: _join(*args, norms="hh"), _norm_outside),
    ),
    WrongAnswer(
        "added in place of joined",
        _added,
        "The two are added. They are joined along the channels to 2D, and eh_proj maps back to D.",
    ),
    WrongAnswer(
        "one id too many",
        _all_ids,
        "There are T + 1 ids and T hidden vectors: leave the first id out, ids[:, 1:].",
    ),
    WrongAnswer(
        "not projected",
        _no_projection,
        "The joined vector has 2D channels: eh_proj(...) brings it back to D.",
    ),
    WrongAnswer(
        "not joined along the channels",
        _along_tokens,
        "eh_proj wants 2D channels. Join the two along the last dimension, "
        "torch.cat([...], dim=-1): do not add them, and do not join them along the tokens.",
        also=(lambda *args: args[-1](_added(*args)),),
    ),
)

# ---- the loss


def _loss(logits, ids, first, last=None, **options):
    """Cross-entropy of logits[:, :n] against ids from `first` on."""
    answers = ids[:, first:]
    n = min(answers.shape[1], logits.shape[1])
    return F.cross_entropy(logits[:, :n].flatten(0, 1), answers[:, :n].flatten(), **options)


def _last_repeated(logits, ids):
    """All T positions judged, the last against the last id once more."""
    answers = torch.cat([ids[:, 2:], ids[:, -1:]], dim=1)
    return F.cross_entropy(logits.flatten(0, 1), answers.flatten())


def _padded_with_zero(logits, ids):
    answers = F.pad(ids[:, 2:], (0, 1))
    return F.cross_entropy(logits.flatten(0, 1), answers.flatten())


def _late(logits, ids):
    return F.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, 2:].flatten())


def _classes_last(logits, ids):
    return F.cross_entropy(logits[:, :-1], ids[:, 2:])


def _naive_softmax(logits, ids):
    p = logits[:, :-1].exp() / logits[:, :-1].exp().sum(-1, keepdim=True)
    return -p.log().gather(-1, ids[:, 2:, None]).mean()


def _answers_log(logits, ids):
    return logits[:, :-1].softmax(-1).log().gather(-1, ids[:, 2:, None])


MTP_LOSS = (
    WrongAnswer(
        "the next token as answer",
        lambda logits, ids: _loss(logits, ids, 1),
        "The answer at position i is the id at i + 1, as in the trunk's loss. The module was GIVEN "
        "that id: it would learn to copy. Its answer is the id at i + 2.",
        also=(lambda logits, ids: _loss(logits[:, :-1], ids, 1),),
    ),
    WrongAnswer(
        "one token too far",
        lambda logits, ids: _loss(logits, ids, 3),
        "The answer at position i is taken at i + 3. It is the id at i + 2: ids[:, 2:].",
    ),
    WrongAnswer(
        "this token as answer",
        lambda logits, ids: _loss(logits, ids, 0),
        "The answer at position i is the id at i itself. It is the id at i + 2: ids[:, 2:].",
    ),
    WrongAnswer(
        "logits shifted",
        _late,
        "You drop the first position's logits. The last position is the one without an answer: "
        "logits[:, :-1] against ids[:, 2:].",
    ),
    WrongAnswer(
        "last position judged too",
        _last_repeated,
        "The last position has no answer in the text, and you give it one. Leave it out.",
        also=(_padded_with_zero,),
    ),
    WrongAnswer(
        "sum in place of the mean",
        lambda logits, ids: _loss(logits, ids, 2, reduction="sum"),
        "The losses are summed. The mean does not depend on the size of the batch.",
    ),
    WrongAnswer(
        "no mean",
        lambda logits, ids: _loss(logits, ids, 2, reduction="none"),
        "One loss for each prediction came back. Training needs one number: their mean.",
    ),
    WrongAnswer(
        "classes not in second place",
        _classes_last,
        "F.cross_entropy wants (N, V) and (N,): flatten batch and positions together.",
    ),
    WrongAnswer(
        "log of a softmax",
        _naive_softmax,
        "exp overflows for logits of 200, and the log of a softmax loses the gradient there. "
        "F.cross_entropy takes the logits themselves.",
        also=(lambda logits, ids: -_answers_log(logits, ids).mean(),),
    ),
    WrongAnswer(
        "softmax before the cross-entropy",
        lambda logits, ids: _loss(logits.softmax(-1), ids, 2),
        "F.cross_entropy takes logits and makes the softmax itself: twice is once too much.",
    ),
    WrongAnswer(
        "one logit too many",
        lambda logits, ids: F.cross_entropy(logits.flatten(0, 1), ids[:, 2:].flatten()),
        "There are T positions and T - 1 answers. The last position's answer is not in the text: "
        "logits[:, :-1].",
    ),
    WrongAnswer(
        "detached",
        lambda logits, ids: _loss(logits.detach(), ids, 2),
        "The value is right, but it has no gradient, so nothing would be learned.",
        also=(lambda logits, ids: _loss(logits, ids, 2).item(),),
    ),
)
