"""What one looks at first: a row for each model, and a card with everything about one.

Rows and cards are data; the command line and the notebooks render them.
"""

from dataclasses import dataclass

from course_utils.accounting.attention import Attention
from course_utils.accounting.cache import cache_bytes, cache_bytes_per_token, state_elements
from course_utils.accounting.catalog import PARAMETERS, Entry, catalog
from course_utils.accounting.flops import decode_flops
from course_utils.accounting.formats import stored_bytes
from course_utils.accounting.spec import ModelSpec

LONG = 131_072


@dataclass(frozen=True)
class ModelRow:
    """One line of the table. `published` is a total, `difference` ours over theirs minus 1."""

    name: str
    total: int
    activated: int
    attention: str
    cache_per_token: int
    published: float | None
    difference: float | None
    exact: bool


def model_row(entry: Entry) -> ModelRow:
    """The row of one model, against an exact published total if there is one."""
    spec, count = entry.spec, entry.spec.count()
    figure = entry.figure("total", exact=True) or entry.figure("total")
    return ModelRow(
        name=entry.name,
        total=count.total,
        activated=count.activated,
        attention=attention_kinds(spec),
        cache_per_token=cache_bytes_per_token(spec),
        published=figure.value if figure else None,
        difference=figure.difference(spec) if figure else None,
        exact=bool(figure and figure.exact),
    )


def model_rows() -> list[ModelRow]:
    """All models of the catalog."""
    return [model_row(entry) for entry in catalog().values()]


def attention_kinds(spec: ModelSpec) -> str:
    """The kinds of attention with the number of their layers."""
    found: dict[str, int] = {}
    for layer, times, _ in spec.groups:
        label = _short(layer.attention)
        found[label] = found.get(label, 0) + times
    if len(found) == 1:
        return next(iter(found))
    return " + ".join(f"{times} {label}" for label, times in found.items())


def _short(attention: Attention) -> str:
    return attention.label.replace(", shared cache", " shared")


def cost_lines(spec: ModelSpec) -> dict[str, int]:
    """Bytes and operations of one model, by what they are."""
    lines = {
        "weights in bf16, bytes": stored_bytes(spec),
        "weights with 4 bits in groups, bytes": stored_bytes(spec, "int4"),
        "cache of a token in bf16, bytes": cache_bytes_per_token(spec),
        f"cache of {LONG:,} tokens in bf16, bytes": cache_bytes(spec, LONG),
        "operations of a token after 4,096": decode_flops(spec, 4096),
    }
    if spec.fp8_block:
        lines["weights in FP8 blocks, bytes"] = stored_bytes(spec, "fp8")
    if state := state_elements(spec):
        lines["numbers in states of fixed size"] = state
    return lines


def figure_lines(entry: Entry) -> list[tuple[str, float, int, float, str, str]]:
    """Published figures: what, theirs, ours, difference, convention and remark, source."""
    lines = []
    for figure in entry.published:
        remark = figure.convention if figure.what in PARAMETERS else "bf16"
        remark += f"; {figure.explanation}" if figure.explanation else ""
        counted, gap = figure.counted(entry.spec), figure.difference(entry.spec)
        lines.append((figure.what, figure.value, counted, gap, remark, figure.source))
    return lines
