"""Start a program in several processes with PyTorch's launcher, from a notebook, and end them all.

`python -m torch.distributed.run` starts the ranks; here it is told to use this machine alone (the
loopback address, a free port), so that it works without any network. The program gets the
additional arguments `--out FILE`, and rank 0 writes its result there as JSON.

A time limit is needed: a rank that waits for another waits forever. At the limit, on an error and
when the notebook is interrupted, the launcher and all its descendants are ended.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

# gloo on the loopback interface; PyTorch for Windows is built without libuv.
SETTINGS = {
    "Linux": {"GLOO_SOCKET_IFNAME": "lo"},
    "Darwin": {"GLOO_SOCKET_IFNAME": "lo0"},
    "Windows": {"USE_LIBUV": "0"},
}


def run_ranks(ranks: int, program: Sequence[str], *, timeout: float = 120.0) -> Any:
    """What `program` (["-m", "module", ...] or ["file.py", ...]) wrote from rank 0.

    Raises TimeoutError after `timeout` seconds, RuntimeError with the end of what was printed when
    a rank failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out, log = folder / "out.json", folder / "launcher.log"
        with log.open("wb") as file:
            launcher = subprocess.Popen(
                [*_launcher(ranks, folder), *program, "--out", str(out)],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
            code = _wait_and_end(launcher, timeout)
        if code is None:
            raise TimeoutError(
                f"{ranks} processes did not finish in {timeout:g} s, and were ended. "
                f"Perhaps one waits for another.\n{_printed(folder)}"
            )
        if code or not out.is_file():
            raise RuntimeError(f"the launcher ended with code {code}:\n{_printed(folder)}")
        return json.loads(out.read_text(encoding="utf-8"))


def _launcher(ranks: int, folder: Path) -> list[str]:
    options = {
        "nnodes": 1,
        "nproc-per-node": ranks,
        "rdzv-backend": "c10d",
        "rdzv-endpoint": "127.0.0.1:0",
        "local-addr": "127.0.0.1",
        "max-restarts": 0,
        "redirects": 3,  # what each rank prints goes to files of its own
        "log-dir": folder / "ranks",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "torch.distributed.run", *flags]


def _environment() -> dict[str, str]:
    """One thread a process, and what this system needs; what the user has set stays."""
    return {"OMP_NUM_THREADS": "1"} | SETTINGS.get(platform.system(), {}) | dict(os.environ)


def _printed(folder: Path, lines: int = 12) -> str:
    """The last lines of each rank, or of the launcher where no rank has said anything."""
    files = {
        f"rank {path.parent.name}": path
        for path in sorted(folder.glob("ranks/*/attempt_0/*/stderr.log"))
        if path.stat().st_size
    }
    parts = []
    for name, path in (files or {"launcher": folder / "launcher.log"}).items():
        last = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        parts.append("\n".join([f"--- {name}:", *last]))
    return "\n".join(parts)


def _wait_and_end(launcher: subprocess.Popen, timeout: float) -> int | None:
    """Its exit code, None at the limit; afterwards no process of its family is left.

    Ranks run in sessions of their own, and outlive a launcher that is killed: so they are noted
    while it runs.
    """
    family: set[psutil.Process] = {psutil.Process(launcher.pid)}
    deadline = time.monotonic() + timeout

    def note() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            family.update(psutil.Process(launcher.pid).children(recursive=True))

    try:
        while (code := launcher.poll()) is None and time.monotonic() < deadline:
            note()
            time.sleep(0.05)
        return code
    finally:
        note()  # a rank may have started since
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=5)
        launcher.wait()
