"""Runs the grading worker, and blames the answer that hangs or ends it.

The worker writes a line when it starts an exercise and one when it is done. An exercise that takes
longer than its limit is ended by killing the worker with all processes that it started; one during
which the worker dies has crashed it. Either way a new worker takes the answers that are left.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from course_utils.exercises.extract import Answer

_START_LIMIT, _POLL = 180.0, 0.05  # seconds: to load the libraries, and between two looks


@dataclass(frozen=True)
class Outcome:
    """What became of one answer."""

    status: str
    message: str = ""
    diagnosis: str = ""
    diagnosis_text: str = ""


def supervise(
    answers: Sequence[Answer], *, seed: int, time_limit: float, memory_mb: int
) -> dict[str, Outcome]:
    """The outcome of every answer, by exercise."""
    outcomes: dict[str, Outcome] = {}
    left = list(answers)
    while left:
        job = {"seed": seed, "time_limit": time_limit / 2, "memory_mb": memory_mb}
        outcomes |= _one_worker(left, job, time_limit)
        left = [answer for answer in left if answer.exercise not in outcomes]
    return outcomes


def _one_worker(answers: Sequence[Answer], job: dict, time_limit: float) -> dict[str, Outcome]:
    """The outcomes that one worker reached; at least one, or an error."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        job_file, results, errors = (Path(folder, name) for name in ("job", "results", "errors"))
        fields = [
            {"exercise": a.exercise, "function": a.function, "source": a.source} for a in answers
        ]
        job_file.write_text(json.dumps({**job, "answers": fields}), encoding="utf-8")
        results.touch()
        with open(errors, "wb") as stderr:
            process = _started(job_file, results, stderr, folder)
            try:
                hung = _wait(process, results, time_limit)
            finally:
                _kill(process)
        outcomes, current = _read(results)
        if current is not None:
            outcomes[current] = _blamed(hung, process.returncode, time_limit)
        if not outcomes:
            said = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RuntimeError(f"the grading process could not start: {' '.join(said[-1:])}")
        return outcomes


def _started(job: Path, results: Path, stderr: object, folder: str) -> subprocess.Popen:
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "course_utils.exercises.worker", str(job), str(results)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
    )


def _wait(process: subprocess.Popen, results: Path, time_limit: float) -> bool:
    """Wait for the worker; True when it had to be given up."""
    lines, since = 0, time.monotonic()
    while process.poll() is None:
        now = results.read_bytes().count(b"\n")
        if now != lines:
            lines, since = now, time.monotonic()
        if time.monotonic() - since > (time_limit if lines else _START_LIMIT):
            return True
        time.sleep(_POLL)
    return False


def _kill(process: subprocess.Popen) -> None:
    """End the worker and everything that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.kill()
    process.wait()


def _read(results: Path) -> tuple[dict[str, Outcome], str | None]:
    """The finished outcomes, and the exercise that was running at the end."""
    outcomes: dict[str, Outcome] = {}
    current = None
    for line in results.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # half a line: the worker died while writing
        event, current = entry.pop("event"), entry.pop("exercise")
        if event == "result":
            outcomes[current], current = Outcome(**entry), None
    return outcomes, current


def _blamed(hung: bool, code: int, time_limit: float) -> Outcome:
    if hung:
        return Outcome("time limit", f"it did not finish within {time_limit:g} seconds")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    how += ", often for want of memory" if code == -9 else ""
    return Outcome("crashed", f"it ended the whole process ({how}) instead of returning")
