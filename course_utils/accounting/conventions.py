"""What publishers mean by "parameters": the same model under each of their conventions.

The same checkpoint is 671 or 685 billion parameters, and 35.7, 36.6 or 37.6 activated, depending on
what is counted. Each convention has a name here, and the catalog says which one a figure follows.
Left out: rounding, and names ("A10B") that follow no convention.
Sources: the publishers' own captions, quoted in the catalog entries.
"""

from collections.abc import Callable
from math import prod

from course_utils.accounting.tensors import BIASES, EMBEDDING, HEAD, NORMS, ROUTER, Count, Weight

ALL = "all"
NO_EMBEDDING = "without input embedding"
NO_TABLES = "without embedding and head"
WITH_MTP = "all with MTP"
WITH_MTP_NO_TABLES = "with MTP, without embedding and head"
CHECKPOINT = "as stored"
COPIED_HEAD = "with a stored copy of the tied head"


def _tables(spec, without: int) -> Count:
    """The main model without that many of its (up to two) tables; a tied table is head first."""
    stored = 1 if spec.tie_word_embeddings else 2
    gone = without if stored == 2 else max(0, without - 1)
    count = spec.count()
    return Count(count.total - gone * spec.table, count.activated - gone * spec.table)


def checkpoint(spec) -> Count:
    """Numbers in the published files: MTP with its own tables, and the scales of FP8 blocks."""
    count = spec.count() + spec.mtp_count()
    if spec.mtp and spec.mtp.stores_tables:
        count += Count(2 * spec.table * spec.mtp.modules, 0)
    return count + Count(fp8_scales(spec), 0)


CONVENTIONS: dict[str, Callable[..., Count]] = {
    ALL: lambda spec: spec.count(),
    NO_EMBEDDING: lambda spec: _tables(spec, 1),
    NO_TABLES: lambda spec: _tables(spec, 2),
    WITH_MTP: lambda spec: spec.count() + spec.mtp_count(),
    WITH_MTP_NO_TABLES: lambda spec: _tables(spec, 2) + spec.mtp_count(),
    CHECKPOINT: checkpoint,
    COPIED_HEAD: lambda spec: spec.count() + Count(spec.table, 0),
}


def conventions(spec) -> dict[str, Count]:
    """The model under every convention that makes a difference for it."""
    found: dict[str, Count] = {}
    for name, count in CONVENTIONS.items():
        applies = spec.tie_word_embeddings if name == COPIED_HEAD else True
        if applies and (name == ALL or count(spec) not in found.values()):
            found[name] = count(spec)
    return found


def convention(name: str) -> Callable[..., Count]:
    """The convention of that name; ValueError lists the names."""
    if name not in CONVENTIONS:
        raise ValueError(f"unknown convention {name!r}: choose from {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def fitting_conventions(printed: str, counts: dict[str, int]) -> list[str]:
    """The conventions whose count rounds to a figure as printed, in billions, such as "36.7".

    A figure stands for what rounds to it at its own number of decimals: "10" for 9.5 to 10.5.
    An empty list says that no convention fits: the figure was cut off, or counts something else.
    """
    decimals = len(printed.partition(".")[2])
    return [name for name, count in counts.items() if f"{count / 1e9:.{decimals}f}" == printed]


def is_quantized_in_fp8(weight: Weight) -> bool:
    """Whether an FP8 checkpoint of DeepSeek's kind stores this weight in 8 bits.

    Matrix products are, except the tables, the router, the MTP projection, and the indexer's small
    head weights.
    """
    kept = (EMBEDDING, HEAD, NORMS, BIASES, ROUTER)
    small = ("eh_proj", "indexer.weights_proj")
    return weight.product and weight.part not in kept and weight.name not in small


def fp8_scales(spec) -> int:
    """Scales beside FP8 weights: one for each block, counted per matrix, edges included."""
    if spec.fp8_block is None:
        return 0
    rows, columns = spec.fp8_block
    scales = 0
    for weight, times in (*spec.weights(), *spec.mtp_weights):
        if is_quantized_in_fp8(weight):
            blocks = -(-weight.shape[0] // rows) * -(-prod(weight.shape[1:]) // columns)
            scales += blocks * weight.copies * times
    return scales
