"""The worker's channels look again for messages whose arrival nobody signalled."""

import asyncio
import time
from queue import Empty

import pytest

from course_utils.commands.notebook_worker import ask_again


class SleepyChannel:
    """Sees a message only when a wait begins after it came, as a socket does that lost a signal."""

    def __init__(self, comes_after: float):
        self.comes, self.waits = time.monotonic() + comes_after, []

    async def get_msg(self, timeout=None):
        self.waits.append(timeout)
        if time.monotonic() >= self.comes:
            return {"content": "here"}
        await asyncio.sleep(timeout)
        raise Empty


@pytest.mark.parametrize("limit", [30, None])
def test_a_message_that_was_not_signalled_is_found(limit):
    channel = SleepyChannel(comes_after=0.05)
    ask_again(channel, every=0.1)
    assert asyncio.run(channel.get_msg(timeout=limit)) == {"content": "here"}
    assert 2 <= len(channel.waits) and max(channel.waits) <= 0.1  # never 30, or for ever


def test_the_limit_of_the_caller_holds():
    channel = SleepyChannel(comes_after=60)
    ask_again(channel, every=0.1)
    with pytest.raises(Empty):
        asyncio.run(channel.get_msg(timeout=0.25))
    assert sum(channel.waits) == pytest.approx(0.25, abs=0.1)


def test_a_limit_of_nothing_looks_once():
    channel = SleepyChannel(comes_after=0)
    ask_again(channel)
    assert asyncio.run(channel.get_msg(timeout=0)) == {"content": "here"}
