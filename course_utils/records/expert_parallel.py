"""One layer of experts on one and two GPUs: equal results, bytes on the wire, milliseconds.

`python -m course_utils.records.expert_parallel --device cuda` writes c06_expert_parallel.csv; two
GPUs need about a minute. Three settings: a layer of chapter 06's size in 32 bits on two ranks, a
large one in bfloat16 on two ranks, and the large one through the parallel code on a single rank,
where nothing has to be sent. On two ranks it runs three times: free choice of experts, all of a
token's experts on one rank, and free choice with copies of hot experts placed by their load.

Counts and bytes depend on which experts are chosen, and so do not depend on the machine. Times are
medians of 20 passes forward and backward, all ranks started together; "one process" computes all
tokens on one device, without any communication. Left out: more than one run of each.
"""

import argparse

import torch

from course_utils.moe.launch import run_ranks
from course_utils.records.recorded import code_hash, save_record

RECORD = "c06_expert_parallel"
KEYS = ("setting", "limit", "redundant")
EXACT = ("copies", "vector_bytes", "formula_bytes", "pairs_most")
TOLERANCE = dict.fromkeys(EXACT, 0) | {"error_output": 1e-5, "error_gradient": 1e-5}
SMALL = {"tokens": 512, "hidden": 64, "experts": 16, "top-k": 4, "width": 32, "dtype": "float32"}
LARGE = {"tokens": 16384, "hidden": 2048, "experts": 64, "top-k": 6, "width": 1408}
LARGE |= {"dtype": "bfloat16"}
SETTINGS = {  # sizes, ranks, redundant copies
    "small": (SMALL, 2, 4),
    "large": (LARGE, 2, 8),
    "large, one rank": (LARGE, 1, 0),
}
PARTS = ("config", "experts", "layer", "parallel", "parallel_demo", "placement", "routing", "rules")
CODE = tuple(f"moe/{part}.py" for part in (*PARTS, "segments", "wire"))


def run_setting(setting: str, device: str, repeat: int) -> dict:
    """What `course_utils.moe.parallel_demo` measured; no times when `repeat` is 0."""
    sizes, ranks, copies = SETTINGS[setting]
    options = sizes | {"device": device, "copies": copies, "repeat": repeat}
    flags = [f"--{name}={value}" for name, value in options.items()]
    limits = [str(limit) for limit in range(ranks, 0, -1)]
    program = ["-m", "course_utils.moe.parallel_demo", *flags, "--limits", *limits]
    return run_ranks(ranks, program, timeout=300)


def make_rows(setting: str, result: dict, hardware: str) -> list[dict]:
    """The rows of a setting, from what was measured."""
    sizes, ranks, _ = SETTINGS[setting]
    rows = []
    for run in result["runs"]:
        errors, times = dict(run["errors"]), run.get("milliseconds", {})
        row = {"setting": setting, "hardware": hardware, "ranks": ranks}
        row |= {name.replace("-", "_"): value for name, value in sizes.items()}
        row["limit"] = run["limit"]
        row["redundant"] = sum(map(len, run["placement"])) - sizes["experts"]
        row["error_output"] = f"{errors.pop('output'):.2e}"
        row["error_gradient"] = f"{max(errors.values()):.2e}"
        row |= {name: run[name] for name in ("copies", "vector_bytes", "formula_bytes")}
        row["pairs_per_rank"] = " ".join(map(str, run["pairs_per_rank"]))
        row["pairs_most"] = max(run["pairs_per_rank"])
        row["balancedness"] = round(run["balancedness"], 4)
        for name in ("one process", "parallel"):
            took = times.get(name)
            row[f"milliseconds_{name.replace(' ', '_')}"] = "" if took is None else round(took, 2)
        rows.append(row | {"code": code_hash(CODE), "corpus": "random vectors"})
    return rows


def rows(device: str = "cpu") -> list[dict]:
    """All rows of the record."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU process"
    found = []
    for setting, (_, ranks, _) in SETTINGS.items():
        found += make_rows(setting, run_setting(setting, device, repeat=20), f"{ranks} x {name}")
    return found


def sample() -> dict:
    """The small layer with a free choice, in two processes on this machine's CPU."""
    return make_rows("small", run_setting("small", "cpu", repeat=0), "2 x CPU process")[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    print(save_record(RECORD, rows(parser.parse_args().device)))
