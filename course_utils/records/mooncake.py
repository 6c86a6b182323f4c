"""Mooncake's figures beside what the simulator makes of the released traces (chapter 18).

`python -m course_utils.records.mooncake --trace conversation_trace.jsonl synthetic_trace.jsonl`
writes c18_mooncake.csv; about a minute on one core. The traces are those of FAST25-release/traces
in Mooncake's repository (kvcache-ai, Apache-2.0); the course does not carry them. A trace is known
by its file name. Column `corpus` holds the first twelve digits of its sha256.

Rows: what the trace is (requests, mean lengths, Table 2), hit ratios of one LRU cache by capacity,
and Figures 5, 8, 9, 10, 13 and 15, each number with a label (`simulation.published`). The hit
ratios of the generated default workload stand beside them, for which no trace is needed; they are
what `sample` makes again.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from course_utils.records.recorded import code_hash, save_record
from course_utils.simulation import published
from course_utils.simulation.prefix_study import hit_ratio
from course_utils.simulation.published import Figure
from course_utils.simulation.workloads import TraceRequest, conversation, mooncake_trace

RECORD = "c18_mooncake"
KEYS = ("figure", "trace", "setting")
TOLERANCE = {"ours": 1e-4}
CODE = ("scheduling", "simulation")
CAPACITIES = (1_000, 10_000, 30_000, 50_000, 100_000, None)
TABLE_2 = {"conversation": (12_031, 12_035, 343), "synthetic": (3_993, 15_325, 149)}
FIGURES = {  # by trace: what is computed from it
    "conversation": {
        "5": published.figure_5,
        "8": published.figure_8,
        "9": lambda trace: published.figure_9(trace, "conversation"),
        "10": lambda trace: published.figure_10(trace, "conversation"),
    },
    "synthetic": {
        "9": lambda trace: published.figure_9(trace, "synthetic"),
        "10": lambda trace: published.figure_10(trace, "synthetic"),
        "13": published.figure_13,
        "15": lambda trace: published.figure_15(trace, sorted(published.FIGURE_15B)),
    },
}


def digest(path: Path) -> str:
    """The first twelve digits of a file's sha256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def table_2(trace: Sequence[TraceRequest], name: str) -> list[Figure]:
    """Requests and mean lengths; the paper cuts off what is behind the point."""
    names = ("requests", "mean prompt, tokens", "mean answer, tokens")
    ours = (len(trace), mean(r.input for r in trace), mean(r.output for r in trace))
    return [Figure(*row, "identity") for row in zip(names, TABLE_2[name], ours, strict=True)]


def hit_ratios(
    trace: Sequence[TraceRequest], capacities: Sequence[int | None] = CAPACITIES
) -> list[Figure]:
    """Hits of an LRU cache, as a share of all blocks; nothing published to compare with."""
    found = [(capacity, hit_ratio(trace, capacity).by_block) for capacity in capacities]
    nothing = float("nan")
    return [
        Figure(
            f"{capacity or 'no limit,'} blocks", nothing, ratio, "identity", "counted in the trace"
        )
        for capacity, ratio in found
    ]


def make_rows(figure: str, trace: str, found: Sequence[Figure], corpus: str) -> list[dict]:
    """Rows of the record."""
    rows = []
    for one in found:
        row = {"figure": figure, "trace": trace, "setting": one.name}
        row["published"] = one.published if one.published == one.published else ""
        row |= {"ours": round(one.ours, 5), "label": one.label, "note": one.note}
        rows.append(row | {"code": code_hash(CODE), "corpus": corpus})
    return rows


def trace_rows(path: Path) -> list[dict]:
    """All rows of one trace. ValueError for a file whose name says no known trace."""
    name = path.stem.removesuffix("_trace")
    if name not in FIGURES:
        raise ValueError(f"{path.name}: known are {', '.join(f'{n}_trace.jsonl' for n in FIGURES)}")
    trace, corpus = mooncake_trace(path), digest(path)
    rows = make_rows("table 2", name, table_2(trace, name), corpus)
    rows += make_rows("hits", name, hit_ratios(trace), corpus)
    for figure, make in FIGURES[name].items():
        rows += make_rows(figure, name, make(trace), corpus)
    return rows


def generated_rows(capacities: Sequence[int | None] = CAPACITIES) -> list[dict]:
    """Hit ratios of the default workload, by block."""
    return make_rows("hits", "generated", hit_ratios(conversation(), capacities), "generated")


def sample() -> dict:
    """The generated workload with a cache of 10,000 blocks."""
    return generated_rows((10_000,))[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trace", type=Path, nargs="+", required=True, help="paths of the traces")
    found = [row for path in parser.parse_args().trace for row in trace_rows(path)]
    print(save_record(RECORD, [*found, *generated_rows()]))
