"""The exercises of chapter 16: slots, keys of blocks, giving blocks back, a step's budget, stops.

The wrong answers stand in `_c16_mistakes.py` and `_c16_step_mistakes.py`.
"""

import random
from collections import OrderedDict, deque
from collections.abc import Hashable

from course_utils.exercises import _c16_mistakes as mistakes
from course_utils.exercises import _c16_step_mistakes as step_mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.scheduling.block_pool import Block, block_keys, release_blocks
from course_utils.scheduling.scheduler import share_budget
from course_utils.serving.paged_cache import slot_numbers
from course_utils.serving.text import held_back

# ---- slots


def _slot_cases(rng: random.Random) -> list[Case]:
    size = rng.choice((3, 4, 5))
    table = rng.sample(range(20), 6)
    return [
        Case(([2], 1, 4), "one token in block 2"),
        Case(([3, 1], 4, 2), "two full blocks, 3 and 1"),
        Case(([5, 0, 2], 5, 2), "the last block half full"),
        Case(([4, 2, 0, 7], 7, 2), "four blocks of two"),
        Case(([4, 7, 1], 3, 1), "blocks of one token"),
        Case((table, 5 * size + rng.randrange(1, size), size), "a longer text"),
        Case((table, 2 * size + 1, size), "a table with room to spare"),
    ]


SLOT_NUMBERS = ExerciseSpec(
    name="c16.slot_numbers",
    title="From a token to its slot",
    why="One wrong slot and a request reads another user's text; nothing fails.",
    reference=slot_numbers,
    cases=_slot_cases,
    wrong_answers=mistakes.SLOTS,
    hints=(
        "Token t lies in the block at place t // block_size of the table. Where in that block?",
        "Block b owns the slots from b * block_size on; token t is t % block_size further.",
        "position_S = torch.arange(tokens); torch.tensor(table)[position_S // block_size] gives "
        "every token's block.",
    ),
)


# ---- keys of blocks


class CountingHash:
    """A hash that counts how often it is asked."""

    def __init__(self) -> None:
        self.work = 0

    def __call__(self, pair: Hashable) -> int:
        self.work += 1
        return hash(("counted", pair))


def _key_cases(rng: random.Random) -> list[Case]:
    text = [rng.randrange(50) for _ in range(23)]
    known = [(7, tuple(text[:4])), (8, tuple(text[4:8]))]
    return [
        Case(([5, 6], 2), "one full block"),
        Case(([5, 6, 7], 2), "one full block and a token more"),
        Case(([5], 2), "no full block"),
        Case(([1, 2, 1, 2, 1, 2], 2), "three blocks with the same tokens"),
        Case((text, 4), "23 tokens in blocks of 4"),
        Case((text, 4, known), "the first two keys are known"),
        Case((text[:8], 4, known), "all keys are known"),
        Case((text, 1), "blocks of one token"),
        Case(make=lambda: (text, 4, known, CountingHash()), says="hashes are counted"),
    ]


BLOCK_KEYS = ExerciseSpec(
    name="c16.block_keys",
    title="Names for blocks of text",
    why="A prefix cache with a wrong key answers with somebody else's prompt.",
    reference=block_keys,
    cases=_key_cases,
    wrong_answers=mistakes.KEYS,
    hints=(
        "What does a block's content depend on: its own tokens, or all tokens up to its end?",
        "keys = list(known); block i begins at i * block_size; only full blocks get a key.",
        "content = tuple(tokens[start : start + block_size]); before = keys[-1][0] if keys else "
        "ROOT; keys.append((hasher((before, content)), content))",
    ),
    work="hashes",
)


# ---- giving blocks back


def _pool(references: list[int], hashed: list[int], free: list[int] = (), cached: list[int] = ()):
    """Blocks with these counts, of which `hashed` can be found, and both lists."""
    blocks = [
        Block(count, 1000 + number if number in hashed else None)
        for number, count in enumerate(references)
    ]
    return blocks, deque(free), OrderedDict.fromkeys(cached)


def _release_cases(rng: random.Random) -> list[Case]:
    table = rng.sample(range(9), 6)
    counts = [rng.choice((1, 1, 2)) if number in table else 0 for number in range(9)]
    rest = [number for number in range(9) if number not in table]
    hashed = [*table[:4], *rest[:2]]
    return [
        Case(([0], *_pool([1], [])), "one block that cannot be found"),
        Case(([0], *_pool([1], [0])), "one block that can be found"),
        Case(([1, 0], *_pool([1, 1], [0, 1])), "two blocks that can be found"),
        Case(([0, 1], *_pool([2, 1], [0])), "block 0 is shared, block 1 is not full"),
        Case(([2, 0], *_pool([1, 0, 1, 0], [1, 2], [3], [1])), "others were given back before"),
        Case((table, *_pool(counts, hashed, rest[2:], rest[:2])), "a longer table"),
        Case(([0, 1], *_pool([1, 0], [])), "block 1 is used by nobody"),
        Case(([], *_pool([1], [])), "an empty table"),
    ]


def _state(result: object, args: tuple) -> tuple:
    """References of all blocks, the free ones and the cached ones in order."""
    _, blocks, free, cached = args
    return result, [block.references for block in blocks], list(free), list(cached)


RELEASE_BLOCKS = ExerciseSpec(
    name="c16.release_blocks",
    title="Giving blocks back",
    why="Freed too early, a block has two owners; never freed, the memory is full by noon.",
    reference=release_blocks,
    cases=_release_cases,
    wrong_answers=mistakes.RELEASE,
    hints=(
        "Which block of a text should be evicted first: its first, or its last? Whoever is "
        "appended first is evicted first.",
        "For each number in reversed(table): raise ValueError if references < 1, else take one "
        "off. At 0, the block goes to one of the two lists.",
        "free.append(number) if block.hash is None, else cached[number] = None",
    ),
    observe=_state,
    may_change_arguments=True,
)


# ---- a step's budget


def _share_cases(rng: random.Random) -> list[Case]:
    running = [1] * rng.randint(2, 4) + [rng.randint(20, 60)]
    waiting = [rng.randint(10, 90) for _ in range(3)]
    budget, seats = rng.randint(12, 30), len(running) + 2
    return [
        Case(([1], [], 8, 2), "one request that generates"),
        Case(([], [5], 8, 2), "a prompt of 5"),
        Case(([], [20], 8, 2), "a prompt longer than the budget"),
        Case(([1, 1], [20], 8, 4), "two that generate, and a prompt of 20"),
        Case(([1, 1], [3, 3], 8, 3), "one free seat for two"),
        Case(([1], [2, 2, 2, 2], 32, 2), "one free seat for four"),
        Case(([1, 12], [5], 8, 4), "one is half-way through its prompt"),
        Case(([1, 1, 1], [4], 2, 4), "more requests than tokens"),
        Case(([1, 30], [30, 30], 32, 4, 8), "chunks of 8 at most"),
        Case(([], [], 8, 2), "nobody"),
        Case(([1, 4], [9], 16, 2), "no free seat"),
        Case((running, waiting, budget, seats), "many"),
        Case((running, waiting, 64, seats, 16), "many, chunks of 16"),
    ]


SHARE_BUDGET = ExerciseSpec(
    name="c16.share_budget",
    title="One budget for a step",
    why="It decides whether a long prompt stops everybody else's answer.",
    reference=share_budget,
    cases=_share_cases,
    wrong_answers=step_mistakes.SHARE,
    hints=(
        "Go through all requests once, running ones first, and remember what is left of the "
        "budget. How many of the waiting may take part?",
        "seats = max(0, max_requests - len(running)); a request gets min(left, budget left, "
        "max_chunk).",
        "Take each count off max_tokens; fill up with zeros to len(running) + len(waiting).",
    ),
)


# ---- stop texts


def _held_cases(rng: random.Random) -> list[Case]:
    letters = "".join(rng.choice("ab") for _ in range(12))
    return [
        Case(("ab#", ("###",)), "the last character begins the stop text"),
        Case(("ab##", ("###",)), "the last two do"),
        Case(("ab#c", ("###",)), "a beginning, but not at the end"),
        Case(("ab", ()), "no stop text"),
        Case(("", ("end",)), "no text yet"),
        Case(("the e", ("User:", "\n\n", "end")), "several stop texts, the last one fits"),
        Case(("x\nUs", ("\n\n", "User:")), "several, and the longer one fits"),
        Case(("aab", ("aabaac", "b!")), "a short and a long beginning fit"),
        Case(("one.", (".",)), "a stop text of one character, complete"),
        Case(("go##", ("##",)), "a stop text that is complete"),
        Case((letters, ("abab!", "bba", "aa?")), "random letters"),
        Case((letters[:3], ("abbabab", letters[1:3] + "zz")), "few letters"),
    ]


HELD_BACK = ExerciseSpec(
    name="c16.held_back",
    title="What must not be said yet",
    why="A stop text that comes in two tokens is half on the user's screen before it is known.",
    reference=held_back,
    cases=_held_cases,
    wrong_answers=step_mistakes.HELD,
    hints=(
        "Which ends of the text could be the beginning of a stop text? The longest one counts.",
        "Sizes from the longest stop text less one down to 1: text.endswith(stop[:size]).",
        "Only if len(stop) > size: a stop text that is complete is no beginning. 0 if none fits.",
    ),
)

EXERCISES = [BLOCK_KEYS, SLOT_NUMBERS, RELEASE_BLOCKS, SHARE_BUDGET, HELD_BACK]
