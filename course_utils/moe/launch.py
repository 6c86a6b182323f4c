"""Start a program in several processes with PyTorch's launcher, from a notebook, and end them all.

`python -m torch.distributed.run` starts the ranks; here it is told to use this machine alone (the
loopback address, a free port), so that it works without any network. The program gets the
additional arguments `--out FILE`, and rank 0 writes its result there as JSON.

A time limit is needed: a rank that waits for another waits forever. At the limit, on an error and
when the notebook is interrupted, the launcher and all its descendants are ended. Ranks run in
sessions of their own, outlive the launcher, and may start while it is being ended; so all of them
carry a mark in their environment, which every process inherits, and are looked for until a look
finds nobody.
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

MARK = "COURSE_RANKS"  # environment variable: the folder of the run that a process belongs to
LOOKS, PAUSE = 100, 0.1  # at most so many looks for processes that are left, seconds between two

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
                env=_environment() | {MARK: name},
            )
            code = _wait_and_end(launcher, timeout, name)
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


def _wait_and_end(launcher: subprocess.Popen, timeout: float, mark: str) -> int | None:
    """Its exit code, None at the limit; afterwards no process with its mark is left."""
    deadline = time.monotonic() + timeout
    try:
        while (code := launcher.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return code
    finally:
        launcher.kill()
        _end(mark)
        launcher.wait()


def _end(mark: str) -> None:
    """Kill all processes with the mark; look again, since a killed one may just have made one."""
    for _ in range(LOOKS):
        left = [process for process in psutil.process_iter() if _belongs(process, mark)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if not left:
            return
        psutil.wait_procs(left, timeout=PAUSE)


def _belongs(process: psutil.Process, mark: str) -> bool:
    """Whether the process has the mark and still runs."""
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return False
