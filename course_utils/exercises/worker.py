"""The process that runs learners' answers for grading: `python -m ...worker JOB RESULTS`.

The job is JSON; the results are lines of JSON in a file, one when an exercise starts and one when
it ends, so that the grader knows which answer hung or took the process down. The cases and the
reference's values are computed before any of the learner's code is loaded. The memory limit counts
from there: what the libraries take is not the learner's. It needs `resource` (Linux; macOS ignores
it, Windows has none).
"""

import ast
import contextlib
import importlib
import json
import linecache
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from course_utils.exercises import catalog
from course_utils.exercises.judge import Task, Verdict, judge, prepare
from course_utils.exercises.limits import TimeUp, call_with_limit
from course_utils.exercises.observe import EXTRACTED
from course_utils.exercises.report import message
from course_utils.exercises.surroundings import undisturbed

_LIBRARIES = {"course_utils", "matplotlib", "networkx", "numpy", "tokenizers", "torch"}
_LIBRARIES |= {"safetensors", "transformers"}
_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")


def main(job_file: str, results_file: str) -> None:
    """Grade the answers of one job, one after another."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    tasks = {
        a["exercise"]: prepare(catalog.find(a["exercise"]), job["seed"]) for a in job["answers"]
    }
    load_libraries(answer["source"] for answer in job["answers"])
    limit_memory(job["memory_mb"])
    with open(results_file, "a", encoding="utf-8") as results:

        def write(**line: Any) -> None:
            results.write(json.dumps(line) + "\n")
            results.flush()

        for answer in job["answers"]:
            name = answer["exercise"]
            write(event="start", exercise=name)
            outcome = graded(tasks[name], answer["function"], answer["source"], job["time_limit"])
            write(event="result", exercise=name, **outcome)


def graded(task: Task, function: str, source: str, seconds: float) -> dict[str, str]:
    """Status, diagnosis and message for one answer, given as source."""
    try:
        answer = loaded(task.spec.name, function, source, seconds)
    except TimeUp:
        return _outcome("time limit", "loading the definitions that it needs did not end in time")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = f"{type(error).__name__}: {error}"
        return _outcome("failed", f"the definitions that it needs cannot be loaded: {what}")
    verdict = judge(task, answer, time_limit=min(task.spec.time_limit, seconds))
    said = message(task.spec, verdict)
    if verdict.mistake:
        return _outcome("failed", said, verdict.mistake.name, verdict.mistake.diagnosis)
    return _outcome(_status(verdict), said)


def loaded(name: str, function: str, source: str, seconds: float) -> Callable[..., Any]:
    """Run the source in a module of its own and return the function that it defines."""
    file = f"{EXTRACTED} to {name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"__name__": "answer", "__file__": file}
    code = compile(source, file, "exec")
    with undisturbed():
        call_with_limit(lambda: exec(code, namespace), seconds)
    return namespace[function]


def load_libraries(sources: Iterable[str]) -> None:
    """Import the large libraries that the answers import, so that their size is not counted."""
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        modules = [getattr(node, "module", None) or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            if module.split(".")[0] in _LIBRARIES:
                with contextlib.suppress(Exception):  # a name that is not there fails again later
                    importlib.import_module(module)


def limit_memory(megabytes: int) -> None:
    """Let this process take that much more address space than it has now."""
    try:
        import resource

        import psutil
    except ImportError:
        return
    most = psutil.Process().memory_info().vms + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _status(verdict: Verdict) -> str:
    if verdict.passed:
        return "passed"
    seen = verdict.smallest.got if verdict.smallest else None
    if seen and seen.timed_out:
        return "time limit"
    if seen and (seen.raised in _OUT_OF_MEMORY or "allocate memory" in seen.message):
        return "memory limit"
    return "failed"


def _outcome(status: str, said: str, diagnosis: str = "", text: str = "") -> dict[str, str]:
    return {"status": status, "message": said, "diagnosis": diagnosis, "diagnosis_text": text}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
    os._exit(0)  # without waiting for threads that an answer has left behind
