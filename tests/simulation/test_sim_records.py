"""The records of chapter 18: whole, true of the traces where these are here, and made again."""

from statistics import mean, stdev

import pytest

from course_utils.display.c18 import split_against
from course_utils.records import cluster, load_record, mooncake, recorded
from course_utils.simulation.prefix_study import hit_ratio
from course_utils.simulation.published import LABELS, figure_9

CLUSTERS = load_record("c18_cluster").rows
FIGURES = load_record("c18_mooncake").rows


def values(experiment: str, setup: str, load: float, column: str) -> list[float]:
    wanted = (experiment, setup, load)
    rows = [r for r in CLUSTERS if (r["experiment"], r["setup"], r["load"]) == wanted]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    return [row[column] for row in rows]


def clear_gap(a: list[float], b: list[float]) -> bool:
    """Whether a's mean lies above b's by more than twice the larger spread."""
    return mean(a) - mean(b) > 2 * max(stdev(a), stdev(b))


def test_every_cluster_was_run_with_every_seed():
    seen = [tuple(row[key] for key in cluster.KEYS) for row in CLUSTERS]
    assert seen == cluster.grid() and len(set(seen)) == len(seen)
    for row in CLUSTERS:
        shares = [row[f"goodput_{limit}"] for limit in cluster.TBT_LIMITS]
        assert shares == sorted(shares) and 0 <= shares[0] and shares[-1] <= 1 - row["rejected"]


GROUPS = {
    "split": [f"{p} + {8 - p}" for p in cluster.READERS],
    "together": [f"together, {n}" for n in cluster.CHUNKS],
    "no overlap": [f"together, {n}, no overlap" for n in cluster.CHUNKS],
}


@pytest.mark.parametrize(
    ("other", "load", "verdicts"),  # at 30, 50, 100 and 1000 ms
    [
        ("no overlap", 1.0, ("split", "split", "", "")),
        ("no overlap", 1.5, ("split", "split", "split", "")),
        ("together", 1.0, ("", "", "together", "")),
        ("together", 1.5, ("together", "", "", "")),
    ],
)
def test_what_the_chapter_says_about_roles(other, load, verdicts):
    for limit, verdict in zip((30, 50, 100, 1000), verdicts, strict=True):
        split, rest = (
            max((values("roles", s, load, f"goodput_{limit}") for s in GROUPS[name]), key=mean)
            for name in ("split", other)
        )
        found = "split" if clear_gap(split, rest) else "together" if clear_gap(rest, split) else ""
        assert found == verdict, limit
        row = split_against(CLUSTERS, GROUPS, other, load, limit)
        assert row[-1] == (verdict or "no verdict")


def test_what_the_chapter_says_about_placement_and_rejection():
    names = ("mooncake", "cache_aware", "least_loaded", "random_node")
    ttft = [values("placement", name, 1.0, "mean_ttft") for name in names]
    for one_seed in zip(*ttft, strict=True):
        assert list(one_seed) == sorted(one_seed)  # within a seed, the published order
    assert not clear_gap(ttft[-1], ttft[0])  # and no claim about the means
    cached = {name: values("placement", name, 1.0, "cached") for name in names}
    assert clear_gap(cached["mooncake"], cached["cache_aware"])
    assert clear_gap(cached["cache_aware"], cached["least_loaded"])
    now, soon, late = (
        values("rejection", name, 2.0, "goodput_50")
        for name in ("load now", "load then, 15 s", "load then, 30 s")
    )
    assert clear_gap(late, now) and clear_gap(now, soon)


def test_rows_are_labelled_and_their_traces_named():
    keys = [tuple(row[key] for key in mooncake.KEYS) for row in FIGURES]
    assert len(set(keys)) == len(keys)
    assert {row["label"] for row in FIGURES} == set(LABELS)
    corpora = {row["trace"]: row["corpus"] for row in FIGURES}
    assert corpora["conversation"].startswith("b8cbb061")
    assert corpora["synthetic"].startswith("bd070915")
    assert all(row["note"] for row in FIGURES if row["label"] == "not reproduced")


@pytest.mark.parametrize("name", ["conversation", "synthetic"])
def test_rows_are_those_of_the_traces(name, request):
    trace = request.getfixturevalue(f"{name}_trace")
    rows = {(r["figure"], r["setting"]): r["ours"] for r in FIGURES if r["trace"] == name}
    for capacity in (10_000, None):
        recorded_ratio = rows["hits", f"{capacity or 'no limit,'} blocks"]
        assert hit_ratio(trace, capacity).by_block == pytest.approx(recorded_ratio, abs=1e-5)
    for figure in figure_9(trace, name):
        assert rows[9.0, figure.name] == pytest.approx(figure.ours, abs=1e-5)


def test_samples_agree_with_the_records():
    for name in ("c18_mooncake", "c18_cluster"):
        result = recorded.verify(name)
        assert result.ok, result.text
