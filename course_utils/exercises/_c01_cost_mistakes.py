"""What learners write in chapter 01 about caches, training and conventions when it is not right.

The functions are variations of the right computation (`_c01_variations.py`): one option, one slip.
"""

import math
from typing import Any

from course_utils.accounting.conventions import fitting_conventions
from course_utils.exercises._c01_variations import cached, trained, width
from course_utils.exercises.spec import WrongAnswer

KV_BYTES_PER_TOKEN = (
    WrongAnswer(
        "GQA counted as MHA",
        cached(groups="num_attention_heads"),
        "You keep a key and a value for every query head. Query heads share them: only "
        "num_key_value_heads are kept.",
        also=(cached(groups="num_attention_heads", latent=lambda c: c["kv_lora_rank"]),),
    ),
    WrongAnswer(
        "the whole width",
        cached(plain=lambda c: 2 * c["hidden_size"]),
        "2 x hidden_size numbers a layer was true of old models, where heads x head_dim was D "
        "and nothing was shared. Count key-value heads times head_dim.",
    ),
    WrongAnswer(
        "every key as wide as the model",
        cached(plain=lambda c: 2 * c["num_key_value_heads"] * c["hidden_size"]),
        "A key is as wide as a head, not as the model: head_width(config), not hidden_size.",
    ),
    WrongAnswer(
        "size of a group for their number",
        cached(
            plain=lambda c: 2 * (c["num_attention_heads"] // c["num_key_value_heads"]) * width(c)
        ),
        "Query heads divided by key-value heads is how many share. Kept are the key-value heads "
        "themselves: num_key_value_heads.",
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
        "more than latent and RoPE key",
        cached(latent=lambda c: c["kv_lora_rank"] + c["qk_rope_head_dim"] + c["qk_nope_head_dim"]),
        "Keys without positions and values are rebuilt from the latent, so they are not kept: the "
        "latent and the RoPE key are all.",
        also=(
            cached(latent=lambda c: c["kv_lora_rank"] + c["v_head_dim"]),
            cached(latent=lambda c: c["kv_lora_rank"] + c["qk_rope_head_dim"] + c["v_head_dim"]),
        ),
    ),
    WrongAnswer(
        "kv_lora_rank expected",
        cached(asks=lambda config: config["kv_lora_rank"]),
        "A config with grouped queries has no kv_lora_rank at all. config.get('kv_lora_rank') "
        "gives None where it is missing.",
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
        also=(
            cached(
                latent=lambda c: (
                    c["num_attention_heads"] * (c["qk_nope_head_dim"] + c["v_head_dim"])
                )
            ),
        ),
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
        also=(cached(scale=lambda bits: 1, layers=False),),
    ),
    WrongAnswer(
        "bits instead of bytes",
        cached(scale=lambda bits: bits),
        "These are bits. A byte holds 8: divide.",
        also=(cached(scale=lambda bits: bits * 8),),
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
        also=(cached(head=lambda c: c["head_dim"], asks=lambda config: None),),
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
        also=(
            trained(which="total", seconds=1),
            trained(which="total", passes=2),
        ),
    ),
    WrongAnswer(
        "seconds instead of hours",
        trained(seconds=1),
        "These are GPU-seconds. An hour has 3600 of them.",
        also=(trained(seconds=1, money=1 / 3600),),
    ),
    WrongAnswer(
        "multiplied by 3600",
        trained(seconds=1 / 3600),
        "You multiply by 3600. An hour is longer than a second, so there are fewer: divide.",
    ),
    WrongAnswer(
        "price of a second",
        trained(money=3600),
        "The hours are right. The price is for an hour: dollars = hours * dollars_per_hour.",
    ),
    WrongAnswer(
        "rounded",
        trained(show=round),
        "Right, and then rounded. Return the numbers as they come; the text that shows them can "
        "round.",
        also=(
            trained(show=int),
            trained(show=lambda value: float(int(value))),
            trained(show=lambda value: round(value, 1)),
            trained(show=lambda value: round(value, 2)),
        ),
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
        also=(
            _fits(lambda number, printed: str(number).startswith(printed)),
            _fits(lambda number, printed: int(number) == int(float(printed))),
        ),
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
        also=(
            _fits(lambda number, printed: f"{number:.1f}" == printed),
            _fits(lambda number, printed: abs(number - float(printed)) <= 0.05),
        ),
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
        "half a billion, always",
        _fits(lambda number, printed: abs(number - float(printed)) <= 0.5),
        "You always allow half a billion. Half a unit of the LAST PRINTED digit is right: 0.5 for "
        '"37", 0.05 for "36.7".',
        also=(_fits(lambda number, printed: abs(number - float(printed)) < 1),),
    ),
    WrongAnswer(
        "a whole unit of the last digit",
        _fits(lambda number, printed: abs(number - float(printed)) < 10 ** -_decimals(printed)),
        "You allow a whole unit of the last digit. What is rounded lies within half a unit.",
    ),
    WrongAnswer(
        "rounded up",
        _fits(lambda number, printed: _cut(-number, _decimals(printed)) == f"-{printed}"),
        "You round up. A figure is rounded to the nearest: 10.33 prints as 10.",
    ),
    WrongAnswer(
        "text of a float",
        _fits(lambda number, printed: str(round(number, _decimals(printed))) == printed),
        "Nearly: str(round(...)) of 10.33 gives 10.0, where 10 was printed. Format with the "
        "printed decimals, or compare numbers in place of texts.",
    ),
    WrongAnswer(
        "significant digits",
        _fits(lambda number, printed: f"{number:.{len(printed.replace('.', ''))}g}" == printed),
        "You keep as many significant digits as were printed. That is nearly the same, but 9.9 "
        "without decimals is 10, which has one digit more.",
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
        "another unit",
        lambda printed, counts: [
            name
            for name, count in counts.items()
            if f"{count / 2**30:.{_decimals(printed)}f}" == printed
        ],
        "Hardly anything fits. Is the unit right? A billion parameters is 1e9; 2**30 is for "
        "memory. And are the decimals those that were printed?",
        also=(
            _fits(lambda number, printed: f"{number * 1e3:.{_decimals(printed)}f}" == printed),
            _fits(lambda number, printed: f"{number * 1e9:.{_decimals(printed)}f}" == printed),
        ),
    ),
    WrongAnswer(
        "counts instead of names",
        lambda printed, counts: [counts[name] for name in fitting_conventions(printed, counts)],
        "You return the counts. Return the names of the conventions: the keys of the dict.",
    ),
)
