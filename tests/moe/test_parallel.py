"""Experts on several processes equal one process; bytes equal the count by hand; nothing hangs."""

import itertools
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from course_utils.moe import MoE, MoEConfig
from course_utils.moe import launch as launch_module
from course_utils.moe.launch import run_ranks
from course_utils.moe.parallel import (
    Slots,
    combine,
    copies_to_send,
    expected_copies,
    parallelize,
    turns,
    wire_bytes,
)
from course_utils.moe.placement import device_loads, place_contiguously

sys.path.insert(0, str(Path(__file__).parent))
import parallel_ranks

D, E, K = parallel_ranks.D, parallel_ranks.E, parallel_ranks.K
CASES = [(ranks, name) for ranks in (2, 3) for name in parallel_ranks.cases(ranks)]
VECTORS = ("dispatch", "combine", "dispatch backward", "combine backward")


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict]]:
    return {ranks: run_ranks(ranks, [parallel_ranks.__file__], timeout=120) for ranks in (2, 3)}


@pytest.mark.parametrize(("ranks", "name"), CASES)
def test_equals_one_process(results, ranks, name):
    bound = 0.05 if name == "sixteen bits" else 1e-10
    for rank in results[ranks]:
        case = rank[name]
        for what, difference in case["differences"].items():
            assert difference <= bound * max(1.0, case["largest"]), (what, difference)


@pytest.mark.parametrize(("ranks", "name"), CASES)
def test_bytes_equal_the_count_by_hand(results, ranks, name):
    sent, copies = [each[name]["sent"] for each in results[ranks]], 0
    for rank, each in enumerate(results[ranks]):
        case = each[name]
        chosen = len(case["experts"][0]) if case["experts"] else K
        if case["placement"] and name == "copies":
            continue  # which of the copies: see the next test
        placement = case["placement"] or place_contiguously(E, ranks)
        home = {e: r for r, row in enumerate(placement) for e in row}
        wanted = [{home[e] for e in row if e < E} - {rank} for row in case["experts"]]
        out = sum(map(len, wanted))
        copies += out
        numbers = case["itemsize"]
        assert sent[rank]["dispatch"] == sent[rank]["combine backward"] == out * D * numbers
        assert sent[rank]["weights"] == out * chosen * numbers
        assert sent[rank]["experts"] == out * chosen * 4
        assert sent[rank]["counts"] == (ranks - 1) * 8
    total = sum(each[kind] for each in sent for kind in VECTORS)
    if name != "copies":
        assert total == wire_bytes(copies, D, results[ranks][0][name]["itemsize"])
    for there, back in (("dispatch", "combine"), ("combine backward", "dispatch backward")):
        assert sum(each[there] for each in sent) == sum(each[back] for each in sent)


@pytest.mark.parametrize("ranks", [2, 3])
def test_cases_are_what_their_names_say(results, ranks):
    def vectors(name, rank):
        return sum(results[ranks][rank][name]["sent"][kind] for kind in VECTORS)

    assert all(vectors("no tokens at all", rank) == 0 for rank in range(ranks))
    assert all(vectors("all on one rank", rank) > 0 for rank in range(ranks))
    assert results[ranks][0]["all to rank 0"]["sent"]["dispatch"] == 0
    assert results[ranks][1]["all to rank 0"]["sent"]["dispatch"] == 20 * D * 8
    assert results[ranks][0]["nobody stays at home"]["sent"]["dispatch"] == 6 * D * 8
    identity = [row for each in results[ranks] for row in each["identity experts"]["experts"]]
    assert any(e >= E for row in identity for e in row)
    assert all(
        results[ranks][r]["one group"]["sent"]["dispatch"] <= 20 * D * 8 for r in range(ranks)
    )
    limited = sum(vectors("one group", rank) for rank in range(ranks))
    assert 0 < limited < 0.9 * sum(vectors("even", rank) for rank in range(ranks))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_demonstration_measures_what_it_says(device):
    ranks = 2 if device == "cpu" else min(2, torch.cuda.device_count())
    if ranks == 0:
        pytest.skip("no GPU")
    options = {"device": device, "tokens": 301, "copies": 4, "repeat": 1}
    limits = [str(m) for m in range(ranks, 0, -1)]
    flags = [f"--{name}={value}" for name, value in options.items()]
    program = ["-m", "course_utils.moe.parallel_demo", *flags, "--limits", *limits]
    result = run_ranks(ranks, program, timeout=120)
    assert result["ranks"] == ranks and len(result["runs"]) == ranks + 1
    for run in result["runs"]:
        assert max(run["errors"].values()) < 1e-5 and len(run["errors"]) == 9
        assert run["vector_bytes"] == run["formula_bytes"]
        assert run["copies"] <= run["elsewhere"] <= sum(run["loads"]) == 301 * 4
        assert run["pairs_per_rank"] == pytest.approx(
            device_loads(run["loads"], run["placement"]), abs=16
        )
        assert run["copies"] <= 301 * run["limit"]
    placed = result["runs"][-1]
    assert sum(map(len, placed["placement"])) == 16 + 4
    if ranks == 2:
        free, limited, _ = result["runs"]
        assert limited["vector_bytes"] < 0.8 * free["vector_bytes"]
        assert free["balancedness"] < placed["balancedness"] > 0.95


def test_a_copy_for_each_rank_and_no_more():
    rank_TK = torch.tensor([[0, 0, 2], [2, 1, -1], [-1, -1, -1], [1, 1, 1]])
    rank_C, token_C = copies_to_send(rank_TK, 3)
    assert list(zip(rank_C.tolist(), token_C.tolist(), strict=True)) == [
        (0, 0),
        (1, 1),
        (1, 3),
        (2, 0),
        (2, 1),
    ]


@given(st.lists(st.integers(0, 3), max_size=12))
def test_combine_adds_what_belongs_to_one_token(tokens):
    y_CD = torch.arange(2 * len(tokens), dtype=torch.float64).view(-1, 2)
    expected = [
        [sum(y_CD[c, d].item() for c, t in enumerate(tokens) if t == token) for d in (0, 1)]
        for token in range(5)
    ]
    assert combine(y_CD, torch.tensor(tokens, dtype=torch.long), 5).tolist() == expected


@given(st.lists(st.integers(0, 5), max_size=40))
def test_turns_count_earlier_entries(experts):
    counted = [experts[:n].count(e) for n, e in enumerate(experts)]
    assert turns(torch.tensor(experts, dtype=torch.long), 6).tolist() == counted


@given(st.integers(0, 60), st.integers(0, 5), st.integers(0, 10_000))
def test_copies_of_an_expert_share_its_tokens_evenly(T, first, seed):
    placement = [[0, 1, 2], [0, 3], [2, 0, 4, 4]]
    generator = torch.Generator().manual_seed(seed)
    experts_TK = torch.rand(T, 6, generator=generator).topk(3).indices  # 5 is no real expert
    rank_TK, local_TK = Slots(placement, 5).choose(experts_TK, first)
    served: dict[int, list[tuple[int, int]]] = {e: [] for e in range(5)}
    for e, rank, local in zip(
        *(part.flatten().tolist() for part in (experts_TK, rank_TK, local_TK)), strict=True
    ):
        if e == 5:
            assert (rank, local) == (-1, -1)
        else:
            assert placement[rank][local] == e
            served[e].append((rank, local))
    for e, found in served.items():
        copies = sum(row.count(e) for row in placement)
        counts = [found.count(place) for place in set(found)]
        assert len(counts) == min(copies, len(found))
        assert not counts or max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("E", "k", "R", "m"), [(6, 2, 3, None), (8, 3, 4, 2), (4, 4, 2, None)])
def test_expected_copies_by_enumeration(E, k, R, m):
    size, means = E // R, []
    for open_ranks in itertools.combinations(range(R), m or R):
        experts = [e for e in range(E) if e // size in open_ranks]
        for chosen in itertools.combinations(experts, k):
            means.append(len({e // size for e in chosen} - {0}))  # the token lives on rank 0
    assert expected_copies(E, k, R, m) == pytest.approx(sum(means) / len(means))


def test_expected_copies_of_large_models_by_drawing():
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(4000, 256, generator=generator).topk(8).indices // (256 // 32)
    _, token_C = copies_to_send(chosen.where(chosen != 0, -1), 32)
    assert expected_copies(256, 8, 32) == pytest.approx(len(token_C) / 4000, rel=0.02)
    assert all(expected_copies(256, 8, 8, m) <= m for m in (1, 2, 4, 8))
    assert expected_copies(8, 8, 1) == 0
    for E, k, ranks, limit in [(256, 8, 144, None), (16, 5, 8, 2)]:
        with pytest.raises(ValueError, match=f"{E} experts on {ranks} ranks"):
            expected_copies(E, k, ranks, limit)


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_one_rank_sends_nothing(alone):
    layer = MoE(D, MoEConfig(**parallel_ranks.BASE))
    x_TD = torch.randn(9, D)
    expected_TD = layer(x_TD)
    got_TD = parallelize(layer)(x_TD)
    torch.testing.assert_close(got_TD, expected_TD)
    got_TD.sum().backward()
    assert set(layer.experts.wire.sent.values()) == {0}


def test_what_cannot_be_is_refused(alone):
    with pytest.raises(ValueError, match="placement is for 2 ranks and there are 1"):
        parallelize(MoE(D, MoEConfig(**parallel_ranks.BASE)), [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(ValueError, match="expert 4 is on no rank"):
        parallelize(MoE(D, MoEConfig(**parallel_ranks.BASE)), [[0, 1, 2, 3, 5]])
    with pytest.raises(ValueError, match="capacity_factor is set"):
        parallelize(MoE(D, MoEConfig(**parallel_ranks.BASE, capacity_factor=1.0)))


PROGRAM = """
import os, sys, time, pathlib
rank = int(os.environ["RANK"])
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
{body}
pathlib.Path(sys.argv[-1]).write_text('"done"') if rank == 0 else None
"""


def program(folder: Path, body: str) -> list[str]:
    path = folder / "program.py"
    path.write_text(PROGRAM.format(body=body))
    (folder / "pids").mkdir()
    return [str(path), str(folder / "pids")]


def all_ended(folder: Path, least: int = 2) -> bool:
    pids = [int(file.name) for file in (folder / "pids").iterdir()]
    assert len(pids) >= least
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) and _runs(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def started(folder: Path) -> bool:
    return len(list((folder / "pids").iterdir())) == 2


def test_an_error_of_one_rank_is_shown_and_ends_the_other(tmp_path):
    body = "if rank == 1: raise OSError('rank one is broken')\ntime.sleep(300)"
    with pytest.raises(RuntimeError, match=r"rank 1:(.|\n)*rank one is broken"):
        run_ranks(2, program(tmp_path, body), timeout=60)
    assert all_ended(tmp_path)


def test_ranks_that_hang_are_ended_at_the_limit(tmp_path, monkeypatch):
    now = time.monotonic

    def late_when_started() -> float:
        return now() + (1e6 if started(tmp_path) else 0)

    command = program(tmp_path, "print('waiting', file=sys.stderr, flush=True)\ntime.sleep(300)")
    monkeypatch.setattr(launch_module.time, "monotonic", late_when_started)
    with pytest.raises(TimeoutError, match="2 processes did not finish in 60 s"):
        run_ranks(2, command, timeout=60)
    monkeypatch.undo()
    assert all_ended(tmp_path)


def test_an_interrupt_leaves_no_process_behind(tmp_path, monkeypatch):
    command = program(tmp_path, "time.sleep(300)")
    sleep = time.sleep

    def interrupted_when_started(seconds: float) -> None:
        sleep(seconds)
        if started(tmp_path):
            raise KeyboardInterrupt

    monkeypatch.setattr(launch_module.time, "sleep", interrupted_when_started)
    with pytest.raises(KeyboardInterrupt):
        run_ranks(2, command, timeout=60)
    monkeypatch.undo()
    assert all_ended(tmp_path)


LAUNCHER = """
import os, pathlib, subprocess, sys, time
def start():
    pid = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"],
                           start_new_session=True).pid
    pathlib.Path(sys.argv[1], str(pid)).touch()
{body}
"""


@pytest.mark.parametrize(
    ("body", "error", "limit"),
    [
        ("start(); os._exit(3)", RuntimeError, 60),
        ("while True: start()", TimeoutError, 1),
    ],
    ids=["the launcher has gone", "it starts more all the time"],
)
def test_ranks_that_nobody_has_seen_are_ended(tmp_path, monkeypatch, body, error, limit):
    (tmp_path / "pids").mkdir()
    command = [sys.executable, "-c", LAUNCHER.format(body=body), str(tmp_path / "pids")]
    monkeypatch.setattr(launch_module, "_launcher", lambda ranks, folder: command)
    with pytest.raises(error):
        run_ranks(1, [], timeout=limit)
    assert all_ended(tmp_path, least=1)
