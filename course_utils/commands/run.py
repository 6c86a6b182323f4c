"""`course run`: execute notebooks side by side, with limits that hold.

How it works: one worker process per notebook drives a kernel and reports each cell. This process
watches all of them: it shows progress, measures the memory of each kernel's process tree, and
ends the whole tree when a cell or a notebook is over its limit, so that neither a hung kernel nor
a hung worker, nor a kernel that ignores signals, can hold up the run.

Left out: retries. A notebook that fails now and then is a fault to repair.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from course_utils.commands.chapters import number
from course_utils.commands.process_tree import ProcessTree

GRACE = 10.0  # seconds that the worker has to report its own cell timeout


@dataclass(frozen=True)
class Limits:
    """Seconds that one cell and one notebook may take."""

    cell: float = 300.0
    notebook: float = 600.0


@dataclass
class Outcome:
    """How one notebook went. `status` is "passed", or the reason why it did not."""

    notebook: str
    status: str = "running"
    seconds: float = 0.0
    peak_bytes: int = 0
    cells: int = 0  # code cells in all
    done: int = 0  # code cells begun; the last of them has this number in brackets
    error: str = ""


class Running:
    """One notebook being executed: its worker process, and what the worker told so far."""

    def __init__(self, source: Path, out: Path, limits: Limits, solved: bool, threads: int) -> None:
        self.outcome = Outcome(source.stem)
        self._limits = limits
        self._events_path = out / f".{source.stem}.events"
        self._read = 0
        job = out / f".{source.stem}.job"
        description = {
            "source": str(source),
            "target": str(out / source.name),
            "folder": str(source.parent),
            "chapter": f"c{number(source)}",
            "cell_timeout": limits.cell,
            "solved": solved,
        }
        job.write_text(json.dumps(description), encoding="utf-8")
        self._files = [job, self._events_path]
        self._log = (out / f"{source.stem}.log").open("w", encoding="utf-8")
        self._events = self._events_path.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "course_utils.commands.notebook_worker", str(job)],
            stdout=self._events,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            env=_environment(threads),
        )
        self._tree = ProcessTree(self._process.pid)
        self._began = time.monotonic()
        self._cell_began = float("inf")  # no cell yet: the kernel is starting

    def poll(self) -> bool:
        """Take in what happened since the last look; True once the notebook is done."""
        ended = self._process.poll() is not None
        self._take_events()
        self._tree.look()
        self.outcome.peak_bytes = self._tree.peak_bytes
        if not ended:
            return self._over_limit()
        if self.outcome.status == "running" or self._process.returncode:
            self._end("failed", f"the worker ended with exit code {self._process.returncode}")
        return True

    def close(self) -> None:
        """End everything that still runs, and tidy up."""
        if self.outcome.status == "running":
            self._end("stopped", "stopped before its end")
        self._tree.kill()
        self._process.wait()
        self._events.close()
        self._log.close()
        for file in self._files:
            file.unlink(missing_ok=True)
        log = Path(self._log.name)
        if self.outcome.status in ("passed", "error"):
            log.unlink()  # the notebook itself says it all

    def _take_events(self) -> None:
        with self._events_path.open(encoding="utf-8") as file:
            file.seek(self._read)
            for line in iter(file.readline, ""):
                if not line.endswith("\n"):
                    break  # the worker is still writing it
                self._read = file.tell()
                with contextlib.suppress(json.JSONDecodeError):
                    self._take(json.loads(line))

    def _take(self, event: dict) -> None:
        outcome = self.outcome
        if event["event"] == "start":
            outcome.cells = event["cells"]
        elif event["event"] == "cell":
            outcome.done += 1
            self._cell_began = time.monotonic()
        elif event["event"] == "passed":
            self._end("passed", "")
        elif event["event"] == "failed":
            self._end(event["reason"], event["error"])

    def _over_limit(self) -> bool:
        now = time.monotonic()
        if now - self._began > self._limits.notebook:
            self._end("notebook timeout", f"over {self._limits.notebook:g} s")
        elif self.outcome.status != "running":
            return False  # the page is being written
        elif now - self._cell_began > self._limits.cell + GRACE:
            self._end("cell timeout", f"over {self._limits.cell:g} s, and the kernel hung")
        else:
            return False
        return True

    def _end(self, status: str, error: str) -> None:
        self.outcome.status, self.outcome.error = status, error
        self.outcome.seconds = time.monotonic() - self._began


def run_notebooks(
    notebooks: list[Path],
    out: Path,
    jobs: int,
    limits: Limits,
    solved: bool = False,
    on_change: Callable[[list[Outcome]], None] = lambda _: None,
) -> list[Outcome]:
    """Execute the notebooks, `jobs` at a time; executed copies and pages land in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting, running, outcomes = deque(notebooks), [], []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Running(waiting.popleft(), out, limits, solved, threads))
                outcomes.append(running[-1].outcome)
            for one in [one for one in running if one.poll()]:
                one.close()
                running.remove(one)
            on_change(outcomes)
            time.sleep(0.1)
    finally:
        for one in running:
            one.close()
    return outcomes


def _environment(threads: int) -> dict[str, str]:
    """Cores are shared between the notebooks; the kernel is that of this environment.

    MKL follows OMP_NUM_THREADS where that is set: its threads spin while they wait for each other.
    """
    share = os.environ.get("OMP_NUM_THREADS", str(threads))
    defaults = {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share}
    return defaults | {"HF_HUB_OFFLINE": "1"} | dict(os.environ) | {"JUPYTER_PREFER_ENV_PATH": "1"}
