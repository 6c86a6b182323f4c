"""`course models`, `course models NAME` and `course count FILE`: what models are made of, and cost.

The first prints the catalog, the second one model's card, the third the card of any `config.json`.
All numbers come from `course_utils.accounting`; here they are only laid out.
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from course_utils.accounting.catalog import Entry, find
from course_utils.accounting.conventions import conventions
from course_utils.accounting.overview import attention_kinds, cost_lines, figure_lines, model_rows
from course_utils.accounting.spec import ModelSpec
from course_utils.commands.errors import BadArgumentError, CommandError

FOOT = """B: 1e9 parameters. Cache: bytes of a token in bf16, at first. The difference is under the
convention of the published figure, which `course models NAME` names with its source."""


def show_models(name: str | None, console: Console) -> None:
    """Print the catalog, or the card of one of its models."""
    if name is None:
        console.print(_catalog())
        console.print(FOOT, soft_wrap=True)
        return
    try:
        entry = find(name)
    except ValueError as error:
        raise BadArgumentError(str(error)) from error
    _show_entry(entry, console)


def count_config(file: Path, console: Console) -> None:
    """Print the card of a `config.json`."""
    try:
        spec = ModelSpec.from_hf_config(file)
    except (ValueError, TypeError, AttributeError) as error:
        raise CommandError(f"{file}: {error}") from error
    _show_spec(file.name, spec, console)


def _table(*columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def _catalog() -> Table:
    table = _table("model", "total", "activated", "cache", "published", "difference")
    table.add_column("attention", overflow="fold")
    for row in model_rows():
        gap = (
            "" if row.difference is None else "0, exact" if row.exact else f"{row.difference:+.2%}"
        )
        if row.exact and row.difference:
            gap = f"{row.difference:+.2%}, should be exact"
        theirs = "" if row.published is None else f"{row.published / 1e9:,.2f}B"
        numbers = (f"{row.total / 1e9:,.2f}B", f"{row.activated / 1e9:,.2f}B")
        cells = (*numbers, f"{row.cache_per_token:,}", theirs, gap, row.attention)
        table.add_row(row.name, *cells)
    return table


def _show_entry(entry: Entry, console: Console) -> None:
    facts = (entry.publisher, entry.released, entry.license or "licence not stated")
    console.print(", ".join(filter(None, facts)), soft_wrap=True)
    _show_spec(entry.name, entry.spec, console)
    table = _table("published", "theirs", "counted", "difference")
    table.add_column("convention", overflow="fold")
    sources = []
    for what, theirs, counted, gap, remark, source in figure_lines(entry):
        table.add_row(what, f"{theirs:,.0f}", f"{counted:,}", f"{gap:+.2%}", remark)
        sources.append(source)
    console.print()
    if sources:
        console.print(table)
    _lines("inferred", [f"{key}: {why}" for key, why in entry.inferred.items()], console)
    _lines("notes", list(entry.notes), console)
    _lines("sources", list(dict.fromkeys([entry.config_source, *sources])), console)


def _show_spec(title: str, spec: ModelSpec, console: Console) -> None:
    layers = len(spec.layers)
    kinds = attention_kinds(spec)
    console.print(f"{title}: {spec.model_type}, {layers} layers, {kinds}", soft_wrap=True)
    for table in (_parts(spec), _layer_types(spec), _conventions(spec), _costs(spec)):
        console.print()
        console.print(table)
    _lines("not modelled", list(spec.not_modelled), console)


def _parts(spec: ModelSpec) -> Table:
    table = _table("part", "total", "activated")
    for part, count in spec.by_part().items():
        table.add_row(part, f"{count.total:,}", f"{count.activated:,}")
    return table


def _layer_types(spec: ModelSpec) -> Table:
    table = _table("layer (attention | feed-forward)", "layers", "total of one", "activated")
    for label, (number, one) in spec.by_layer_type().items():
        table.add_row(label, str(number), f"{one.total:,}", f"{one.activated:,}")
    return table


def _conventions(spec: ModelSpec) -> Table:
    table = _table("counting convention", "total", "activated")
    for name, count in conventions(spec).items():
        table.add_row(name, f"{count.total:,}", f"{count.activated:,}")
    return table


def _costs(spec: ModelSpec) -> Table:
    table = _table("costs", "")
    for name, value in cost_lines(spec).items():
        table.add_row(name, f"{value:,}")
    return table


def _lines(title: str, lines: list[str], console: Console) -> None:
    if lines:
        console.print(f"\n{title}")
    for line in lines:
        console.print(f"- {line}", markup=False, highlight=False, soft_wrap=True)
