"""Execute one notebook in this process, and tell the parent cell by cell how far it is.

It is started by `course run` as `python -m course_utils.commands.notebook_worker JOB.json`, in a
process of its own because nbclient can hang: then the parent ends the whole process tree. Each
line on standard output is one JSON event. The executed notebook is saved after every cell, so
that a killed run still shows how far it came.
"""

import json
import os
import sys
import time
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError


def tell(event: str, **values: Any) -> None:
    """One event for the parent."""
    print(json.dumps({"event": event, **values}), flush=True)


def ask_again(channel: Any, every: float = 1.0) -> None:
    """Let a kernel's channel look for a message at least once in `every` seconds.

    On a loaded machine the signal that wakes a waiting asyncio socket can get lost. The message
    then lies there until the wait ends: for a cell of a second, after the whole cell timeout.
    """
    wait_once = channel.get_msg

    async def get_msg(timeout: float | None = None) -> dict[str, Any]:
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            try:
                return await wait_once(timeout=max(0.0, min(every, left)))
            except Empty:
                if left <= every:
                    raise

    channel.get_msg = get_msg


def listening_client(notebook: nbformat.NotebookNode, **options: Any) -> NotebookClient:
    """nbclient's client for a notebook, with channels that look again. Options are nbclient's."""
    client = NotebookClient(notebook, kernel_name="python3", **options)

    def listen(**_: Any) -> None:
        ask_again(client.kc.shell_channel)
        ask_again(client.kc.iopub_channel)

    client.on_notebook_start = listen
    return client


def execute(job: dict[str, Any]) -> None:
    """Execute `job["source"]` into `job["target"]`; tell what went wrong, if anything did."""
    notebook = nbformat.read(job["source"], as_version=4)
    if job["solved"]:
        from course_utils.exercises.solved import fill_stubs

        notebook = nbformat.from_dict(fill_stubs(notebook, job["chapter"]))
    code_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    tell("start", cells=code_cells)
    client = listening_client(
        notebook,
        timeout=job["cell_timeout"],
        resources={"metadata": {"path": job["folder"]}},
        record_timing=False,
        coalesce_streams=True,
        on_cell_start=lambda cell, **_: tell("cell") if cell.cell_type == "code" else None,
        on_cell_executed=lambda **_: save(notebook, Path(job["target"])),
    )
    try:
        client.execute()
        tell("passed")
    except CellTimeoutError:
        tell("failed", reason="cell timeout", error=f"over {job['cell_timeout']:g} s")
    except DeadKernelError:
        tell("failed", reason="dead kernel", error="the kernel died: often not enough memory")
    except CellExecutionError as error:
        tell("failed", reason="error", error=f"{error.ename}: {error.evalue}"[:2000])
    finally:
        save(notebook, Path(job["target"]))


def save(notebook: nbformat.NotebookNode, target: Path) -> None:
    """Write the notebook so that a reader never sees half of it."""
    part = target.with_suffix(".part")
    nbformat.write(notebook, part)
    os.replace(part, target)


def main() -> int:
    """Do the job that the file named on the command line describes."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    execute(job)
    from course_utils.commands.page import write_page

    write_page(Path(job["target"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
