"""Watch a process with all its descendants, and end all of them for certain.

How it works: every look at the tree remembers each process seen in it, so that one which detached
itself from its parent (as a kernel does when its parent dies) is still known and can be ended.
Ending means SIGKILL, which a process cannot ignore, repeated until no descendant is left.
"""

import contextlib
import time

import psutil


class ProcessTree:
    """The tree under one process id: its memory now and at its peak, and its end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: set[psutil.Process] = set()
        self.peak_bytes = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen.add(psutil.Process(pid))

    def look(self) -> int:
        """Bytes in use by the whole tree, the top process left out (it only drives the kernel)."""
        used = 0
        for process in self._alive():
            if process.pid != self._pid:
                with contextlib.suppress(psutil.Error):
                    used += process.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, used)
        return used

    def kill(self, patience: float = 10.0) -> None:
        """End every process of the tree that was ever seen and still runs."""
        deadline = time.monotonic() + patience
        while alive := self._alive():
            for process in alive:  # stopped first, so that none can start another meanwhile
                with contextlib.suppress(psutil.Error):
                    process.suspend()
            alive = self._alive()
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(alive, timeout=1.0)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {[process.pid for process in alive]} do not end")

    def _alive(self) -> list[psutil.Process]:
        for process in list(self._seen):
            with contextlib.suppress(psutil.Error):
                self._seen.update(process.children(recursive=True))
        return [process for process in self._seen if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
