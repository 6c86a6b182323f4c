"""Wrong answers to the exercises of chapter 16 on blocks: slots, keys, and giving blocks back."""

import torch

from course_utils.exercises.spec import WrongAnswer
from course_utils.scheduling.block_pool import ROOT


def _slots(where) -> object:
    """An answer from a function of position, table and block size."""

    def slot_numbers(table, tokens, block_size):
        return where(torch.arange(tokens), torch.tensor(table), block_size)

    return slot_numbers


def _whole_blocks(table, tokens, block_size):
    blocks = torch.tensor(table[: -(-tokens // block_size)])
    return (blocks[:, None] * block_size + torch.arange(block_size)).flatten()


SLOTS = (
    WrongAnswer(
        "the table is not asked",
        _slots(lambda t, table, size: t // size * size + t % size),
        "Token t lies in slot t, as if every sequence had the memory to itself, from its "
        "beginning. Which block holds it is what the table says: table[t // block_size].",
        also=(lambda table, tokens, block_size: torch.arange(tokens),),
    ),
    WrongAnswer(
        "blocks sorted",
        _slots(lambda t, table, size: table.sort().values[t // size] * size + t % size),
        "You sort the table. Its order is the order of the text: the first entry holds the first "
        "tokens, whatever its number.",
    ),
    WrongAnswer(
        "quotient and remainder exchanged",
        _slots(lambda t, table, size: table[(t % size) % len(table)] * size + t // size),
        "t // block_size is the place in the table, t % block_size the place within the block. You "
        "use them the other way round.",
        also=(_slots(lambda t, table, size: table[t % size] * size + t // size),),
    ),
    WrongAnswer(
        "block number for first slot",
        _slots(lambda t, table, size: table[t // size] + t % size),
        "You add the place in the block to the block's NUMBER. Block b begins at slot "
        "b * block_size.",
    ),
    WrongAnswer(
        "positions counted from one",
        _slots(lambda t, table, size: table[(t + 1) // size] * size + (t + 1) % size),
        "Your first token has position 1, so the last one of a block falls into the next block "
        "(and, in the last block, out of the table). Positions begin at 0: torch.arange(tokens).",
    ),
    WrongAnswer(
        "whole blocks",
        _whole_blocks,
        "You give every slot of the blocks. The last block is mostly not full: what lies behind "
        "the text is of somebody who had the block before. Cut at `tokens`.",
    ),
)


def _keys(parent=None, end=None, content=tuple, use_known=True, made=None):
    """`block_keys` with one part replaced."""
    parent = parent or (lambda keys: keys[-1][0] if keys else ROOT)
    made = made or (lambda chained, own: (chained, own))

    def block_keys(tokens, block_size, known=(), hasher=hash):
        keys = list(known) if use_known else []
        last = len(tokens) - block_size + 1 if end is None else len(tokens)
        for start in range(len(keys) * block_size, last, block_size):
            own = content(tokens[start : start + block_size])
            keys.append(made(hasher((parent(keys), own)), own))
        return keys

    return block_keys


def _bare_hash(tokens, block_size, known=(), hasher=hash):
    keys = list(known)
    for start in range(len(keys) * block_size, len(tokens) - block_size + 1, block_size):
        content = tuple(tokens[start : start + block_size])
        keys.append((hasher(content), content))
    return keys


def _only_hashes(tokens, block_size, known=(), hasher=hash):
    keys = [key for key, _ in known]
    for start in range(len(keys) * block_size, len(tokens) - block_size + 1, block_size):
        content = tuple(tokens[start : start + block_size])
        keys.append(hasher((keys[-1] if keys else ROOT, content)))
    return keys


def _sliding(tokens, block_size, known=(), hasher=hash):
    keys = list(known)
    for start in range(len(keys), len(tokens) - block_size + 1):
        content = tuple(tokens[start : start + block_size])
        keys.append((hasher((keys[-1][0] if keys else ROOT, content)), content))
    return keys


KEYS = (
    WrongAnswer(
        "without what comes before",
        _keys(parent=lambda keys: ROOT),
        "Your hash knows the block's own tokens alone. Keys and values depend on ALL tokens before "
        "them: two texts with another beginning would share a block and read each other's past.",
        also=(_bare_hash,),
    ),
    WrongAnswer(
        "chained to the neighbour's tokens",
        _keys(parent=lambda keys: keys[-1][1] if keys else ROOT),
        "You chain to the tokens of the block before, not to its hash. The third block then knows "
        "nothing of the first. The hash of the block before stands for everything up to there.",
    ),
    WrongAnswer(
        "partial block hashed",
        _keys(end=len),
        "You give a key to the last block although it is not full. It will be written further, and "
        "whoever found it by its key would read tokens of somebody else.",
    ),
    WrongAnswer(
        "known keys computed anew",
        _keys(use_known=False),
        "`known` are the keys of the first blocks. Take them as they are and go on behind them: a "
        "request gets one token a step, and hashing all of its text each time grows with its "
        "square.",
    ),
    WrongAnswer(
        "known keys, text from its beginning",
        lambda tokens, block_size, known=(), hasher=hash: (
            list(known)
            + _keys(parent=lambda keys: keys[-1][0] if keys else known[-1][0] if known else ROOT)(
                tokens, block_size, (), hasher
            )
        ),
        "You keep the known keys and then begin again with the first tokens. Start behind them, at "
        "len(known) * block_size.",
    ),
    WrongAnswer(
        "no tokens to compare",
        _only_hashes,
        "A key is a pair: the hash, and the block's own tokens. Hashes collide. Without the tokens "
        "nobody notices, and an answer is computed from somebody else's prompt.",
    ),
    WrongAnswer(
        "a key for every token",
        _sliding,
        "Your blocks overlap: the start moves by one token. Block i holds the tokens from "
        "i * block_size on; move by block_size.",
    ),
)


def _release(order=reversed, decrease=True, shared=True, hashed=None, front=False, checked=True):
    """`release_blocks` with one part replaced; `hashed` True or False: as if all or none were."""

    def release_blocks(table, blocks, free, cached):
        for number in order(table):
            block = blocks[number]
            if checked and block.references < 1:
                raise ValueError("nobody uses it")
            left = block.references - 1 if shared else 0
            block.references = left if decrease else block.references
            if left != 0:
                continue
            if block.hash is None if hashed is None else not hashed:
                (free.appendleft if front else free.append)(number)
            else:
                cached[number] = None
                if front:
                    cached.move_to_end(number, last=False)

    return release_blocks


RELEASE = (
    WrongAnswer(
        "heads before tails",
        _release(order=list),
        "You go through the table from its beginning, so the head becomes the oldest of the cached "
        "blocks and is evicted first. Without its head, no block behind it can be found. Go from "
        "the end: reversed(table).",
    ),
    WrongAnswer(
        "shared block given away",
        _release(shared=False),
        "You free a block that other requests still have in their tables. Its next owner writes "
        "over what they read. Take one reference off, and let go only at 0.",
    ),
    WrongAnswer(
        "count not decreased",
        _release(decrease=False),
        "Your block goes back, but its count of references stays. It can never be told from a "
        "block in use: block.references -= 1.",
    ),
    WrongAnswer(
        "cache thrown away",
        _release(hashed=False),
        "Every block goes to the free ones, also those with a hash. Nothing is ever found again "
        "then, or, worse, found while somebody writes into it. A block with a hash goes to "
        "`cached`.",
    ),
    WrongAnswer(
        "unfindable blocks cached",
        _release(hashed=True),
        "You keep blocks without a hash in `cached`. Nobody can find them, so they are no cache: "
        "they belong to `free`, which is used up first.",
    ),
    WrongAnswer(
        "newest evicted first",
        _release(front=True),
        "You put what was used last at the front, where eviction begins. Least recently used first "
        "means: append at the end.",
    ),
    WrongAnswer(
        "released twice",
        _release(checked=False),
        "A block that nobody uses is given back without a word, and its count becomes -1. Raise "
        "ValueError: a block that is freed twice will have two owners.",
    ),
)
