"""`course serve` as a process: what it prints, whom it serves, and how it ends."""

import os
import re
import signal
import subprocess
import sys

import httpx
import pytest

from course_utils.cli import main
from course_utils.commands.serve import Choice, backend_of
from course_utils.serving import SamplingParams

BODY = {"model": "mock", "prompt": "And", "max_tokens": 40, "stream": True, "ignore_eos": True}


@pytest.fixture
def start():
    """Start `course serve` with these arguments; gives the process and its URL."""
    running = []

    def begin(*arguments: str) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "course_utils.cli", "serve", "--port", "0", *arguments]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env=dict(os.environ), **options)
        running.append(process)
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + process.stderr.read()
        return process, found[0]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def test_a_signal_drains_and_the_exit_code_is_0(start):
    process, url = start("--mock", "--speed", "0.5")
    with httpx.stream("POST", f"{url}/v1/completions", json=BODY, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        while httpx.get(f"{url}/health").json()["status"] != "draining":
            pass
        refused = httpx.post(f"{url}/v1/completions", json=BODY)
        assert refused.status_code == 503 and refused.headers["retry-after"]
        told = [line for line in lines if line]
    assert told[-1] == "data: [DONE]" and '"finish_reason": "length"' in told[-2]
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and errors == ""


def test_who_takes_longer_than_the_drain_is_cut_off_and_that_is_said(start):
    process, url = start("--mock", "--speed", "0.05", "--drain", "0.1")
    with httpx.stream("POST", f"{url}/v1/completions", json=BODY, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGINT)
        assert "shutting_down" in [line for line in lines if line][-1]
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "requests were cut off: not answered within 0.1 s" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(("model", "int8"), [("dense", True), ("moe", False)])
def test_models_of_the_course_are_found(model, int8):
    backend = backend_of(Choice(model, int8=int8))
    made = backend.engine.add(backend.tokenizer.encode("And"), SamplingParams(3))
    backend.engine.run()
    assert backend.name == model and backend.context == 512 and len(made.new_ids) == 3
    quantized = any(type(part).__name__ == "Int8" for part in _kernels(backend.engine.model))
    assert quantized is int8


def _kernels(model):
    return [part.kernel for part in model.modules() if hasattr(part, "kernel")]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--model", "gpt"], "unknown model 'gpt': choose dense, moe, smollm2"),
        (["--port", "70000"], "port is 70000"),
        (["--mock", "--int8"], "--mock has no weights"),
        (["--speed", "2"], "--speed 2 is for --mock"),
        (["--max-ttft", "0"], "max_ttft is 0"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(typed, words, capsys):
    assert main(["serve", *typed]) == 2
    assert words in capsys.readouterr().err
