"""The scheduler: whatever the sizes, requests end with the right counts, and blocks add up."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.scheduling import Request, Scheduler, SchedulerConfig, block_keys

SIZES = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(6, 14),
        "block_size": st.integers(1, 4),
        "max_tokens": st.integers(1, 9),
        "max_requests": st.integers(1, 5),
        "max_chunk": st.one_of(st.none(), st.integers(1, 4)),
        "prefix_cache": st.booleans(),
        "admit": st.sampled_from(["continuous", "batch"]),
    }
)
# (step of arrival, prompt length, new tokens, which of two texts)
WORK = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 12), st.integers(1, 8), st.integers(0, 1)),
    min_size=1,
    max_size=6,
)


def token(text: int, place: int) -> int:
    return 100 * text + place


class Drive:
    """Runs a scheduler, and counts what it would have computed."""

    def __init__(self, config: SchedulerConfig):
        self.scheduler, self.config = Scheduler(config), config
        self.texts: dict[Request, int] = {}
        self.chosen: Counter = Counter()
        self.steps = 0

    def add(self, number: int, length: int, new: int, text: int) -> Request:
        request = Request(number, length, length + new)
        self.texts[request] = text
        self.keys(request)
        self.scheduler.add(request)
        return request

    def keys(self, request: Request) -> None:
        tokens = [token(self.texts[request], place) for place in range(request.known)]
        request.keys = block_keys(tokens, self.config.block_size, request.keys)

    def step(self):
        before = {request: request.computed for request in self.texts}
        plan = self.scheduler.plan()
        self.check(plan, before)
        self.scheduler.done(plan)
        for chunk in plan.chunks:
            if chunk.last:
                self.choose(chunk.request)
        self.steps += 1
        return plan

    def choose(self, request: Request) -> None:
        self.chosen[request] += 1
        request_tokens = request.known + 1
        if request_tokens == request.limit:
            self.scheduler.finish(request)
        else:
            self.scheduler.grow(request)
            self.keys(request)

    def check(self, plan, before) -> None:
        config, pool = self.config, self.scheduler.pool
        assert plan.tokens <= config.max_tokens
        assert len(self.scheduler.running) <= config.max_requests
        for chunk in plan.chunks:
            assert 1 <= chunk.count <= (config.max_chunk or config.max_tokens)
            assert len(chunk.request.blocks) * config.block_size >= chunk.start + chunk.count
            if chunk.request.admissions and before[chunk.request]:
                assert chunk.start == before[chunk.request]
        assert len({chunk.request for chunk in plan.chunks}) == len(plan.chunks)
        users = Counter(number for r in self.texts for number in r.blocks)
        assert [block.references for block in pool.blocks] == [
            users[number] for number in range(config.num_blocks)
        ]
        assert pool.free + pool.used + pool.cached == config.num_blocks


@settings(max_examples=120, deadline=None)
@given(SIZES, WORK)
def test_every_request_ends_and_gives_its_blocks_back(sizes, work):
    drive = Drive(SchedulerConfig(**sizes))
    room = sizes["num_blocks"] * sizes["block_size"]
    work = [one for one in work if one[1] + one[2] <= room]
    arrivals = sorted(enumerate(work), key=lambda pair: pair[1][0])
    step, requests = 0, []
    while arrivals or drive.scheduler.running or drive.scheduler.waiting:
        while arrivals and arrivals[0][1][0] <= step:
            number, (_, length, new, text) = arrivals.pop(0)
            requests.append((drive.add(number, length, new, text), new))
        plan = drive.step()
        assert plan.chunks or not (drive.scheduler.running or drive.scheduler.waiting)
        step += 1
        assert step < 2000
    assert all(drive.chosen[request] == new for request, new in requests)
    assert drive.scheduler.pool.used == 0


def test_prompts_are_read_beside_requests_that_generate():
    drive = Drive(SchedulerConfig(num_blocks=50, block_size=4, max_tokens=10))
    first = drive.add(0, 3, 20, 0)
    drive.step()
    second = drive.add(1, 40, 5, 1)
    for start in (0, 9, 18, 27):
        plan = drive.step()
        assert [(c.request, c.start, c.count) for c in plan.chunks] == [
            (first, first.known - 2, 1),
            (second, start, 9),
        ]


def test_a_prompt_that_is_cached_to_its_last_block_still_computes_its_last_token():
    drive = Drive(SchedulerConfig(num_blocks=20, block_size=4, max_tokens=64))
    drive.add(0, 8, 1, 0)
    drive.step()
    again = drive.add(1, 8, 1, 0)
    (chunk,) = drive.step().chunks
    assert (again.cached_tokens, chunk.start, chunk.count) == (4, 4, 4)
    assert drive.chosen[again] == 1


def test_a_request_that_is_preempted_in_its_prompt_begins_again():
    drive = Drive(SchedulerConfig(num_blocks=4, block_size=2, max_tokens=3, prefix_cache=False))
    old, young = drive.add(0, 2, 5, 0), drive.add(1, 6, 1, 1)
    read = []
    while not young.preemptions:
        read.append(young.computed)
        drive.step()
    assert 0 < read[-1] < 6 and young.computed == 0 and not young.blocks
    while drive.scheduler.running or drive.scheduler.waiting:
        drive.step()
    assert old.preemptions == 0 and young.cached_tokens == 0
    assert drive.chosen == {old: 5, young: 1}


def test_a_preempted_request_finds_its_own_blocks_while_nobody_took_them():
    drive = Drive(SchedulerConfig(num_blocks=8, block_size=2, max_tokens=16))
    drive.add(0, 3, 9, 0)
    young = drive.add(1, 5, 5, 1)
    while not young.preemptions:
        drive.step()
    read = young.known
    while young.admissions < 2:
        plan = drive.step()
    (chunk,) = (c for c in plan.chunks if c.request is young)
    assert 0 < chunk.start < read
    assert young.cached_tokens == 0  # as first admitted


def test_static_batches_wait_for_the_slowest():
    config = SchedulerConfig(num_blocks=50, max_requests=2, admit="batch")
    drive = Drive(config)
    requests = [drive.add(n, 2, new, n) for n, new in enumerate((1, 6, 1))]
    together = [{c.request for c in drive.step().chunks} for _ in range(7)]
    assert together == [set(requests[:2]), *[{requests[1]}] * 5, {requests[2]}]


def test_drafts_are_verified_and_rejected_ones_computed_again():
    drive = Drive(SchedulerConfig(num_blocks=10, block_size=2))
    request = drive.add(0, 4, 8, 0)
    drive.step()
    assert (request.known, request.computed) == (5, 4)
    assert drive.scheduler.guess(request, 3) == 3
    plan = drive.scheduler.plan()
    assert (plan.chunks[0].start, plan.chunks[0].count, request.drafts) == (4, 4, 3)
    drive.scheduler.done(plan)
    drive.scheduler.grow(request, 2)  # one draft was right, and one more token was chosen
    assert (request.known, request.computed, request.drafts) == (7, 6, 0)
    assert drive.scheduler.guess(request, 99) == 4  # 12 - 7, less the token beyond the drafts


def test_drafts_that_do_not_fit_the_step_are_left_out():
    drive = Drive(SchedulerConfig(num_blocks=10, block_size=2, max_tokens=4))
    request = drive.add(0, 4, 8, 0)
    drive.step()
    drive.scheduler.guess(request, 6)
    (chunk,) = drive.scheduler.plan().chunks
    assert (chunk.count, request.drafts) == (4, 3)


@settings(max_examples=80, deadline=None)
@given(SIZES, WORK)
def test_many_like_steps_at_once_are_the_same_as_one_by_one(sizes, work):
    one, many = (Drive(SchedulerConfig(**sizes)) for _ in range(2))
    room = sizes["num_blocks"] * sizes["block_size"]
    for number, (_, length, new, _) in enumerate(work):
        if length + new > room:
            continue
        for drive in (one, many):
            drive.texts[request := Request(number, length, length + new)] = number % 2
            tokens = [token(number % 2, place) for place in range(length)]
            request.keys = block_keys(tokens, sizes["block_size"])
            drive.keys = lambda request: None
            drive.scheduler.add(request)
    jumped = 0
    while many.scheduler.running or many.scheduler.waiting:
        steps = max(0, many.scheduler.steady() - 1)  # the last one may end a request
        many.scheduler.advance(steps)
        jumped += steps
        for _ in range(steps):
            assert [chunk.count for chunk in one.step().chunks] == [1] * len(many.scheduler.running)
        one.step(), many.step()
        for a, b in zip(one.texts, many.texts, strict=True):
            assert (a.known, a.computed, a.state) == (b.known, b.computed, b.state)
            assert len(a.blocks) == len(b.blocks)
        pools = one.scheduler.pool, many.scheduler.pool
        assert pools[0].free == pools[1].free and pools[0].cached == pools[1].cached
        assert pools[0]._found.keys() == pools[1]._found.keys()
    assert one.steps == many.steps + jumped


def test_ending_a_request_anywhere_gives_its_blocks_back():
    drive = Drive(SchedulerConfig(num_blocks=10, block_size=2, max_requests=1))
    running, waiting = drive.add(0, 4, 4, 0), drive.add(1, 4, 4, 1)
    drive.step()
    for request in (running, waiting, running):
        drive.scheduler.finish(request)
    assert drive.scheduler.pool.used == 0
    assert not drive.scheduler.plan().chunks


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_blocks": 0}, "num_blocks is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_chunk": 0}, "max_chunk is 0"),
        ({"admit": "later"}, "admit is 'later'"),
    ],
)
def test_bad_sizes_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        SchedulerConfig(**({"num_blocks": 4} | wrong))


def test_requests_that_cannot_fit_are_refused_with_the_remedy():
    scheduler = Scheduler(SchedulerConfig(num_blocks=2, block_size=4))
    with pytest.raises(ValueError, match="3 blocks of 4; the pool has 2: shorten"):
        scheduler.add(Request(0, 5, 9))
    with pytest.raises(ValueError, match="at least one"):
        Request(0, 0, 4)
    with pytest.raises(ValueError, match="shorten the prompt"):
        Request(0, 9, 4)
    request = Request(1, 4, 5)
    scheduler.add(request)
    with pytest.raises(ValueError, match="its limit is 5"):
        scheduler.grow(request, 2)
    with pytest.raises(ValueError, match="only the next 0"):
        scheduler.advance(1)


def test_received_tokens_are_not_computed_until_a_preemption_loses_them():
    drive = Drive(SchedulerConfig(num_blocks=6, block_size=2, max_tokens=8))
    local = drive.add(0, 4, 6, 0)
    drive.step()
    request = Request(1, 5, 9, received=4)
    drive.texts[request] = 1
    drive.keys = lambda request: None
    drive.scheduler.add(request)
    (_, chunk) = drive.step().chunks
    assert (chunk.start, chunk.count, request.cached_tokens) == (4, 1, 0)
    while not request.preemptions:
        drive.step()
    assert local.state == "running" and (request.computed, request.received) == (0, 0)
    while request.state != "running":
        drive.step()
    assert request.computed > 4  # all of it, from the first token on
    while request.state != "finished":
        drive.step()
    assert drive.chosen[request] == 4


def test_the_prefix_cache_wins_where_it_holds_more_than_was_received():
    drive = Drive(SchedulerConfig(num_blocks=9, block_size=2))
    drive.add(0, 6, 1, 0)
    drive.step()
    request = Request(1, 6, 7, block_keys([token(0, place) for place in range(6)], 2), received=3)
    drive.texts[request] = 0
    drive.scheduler.add(request)
    (chunk,) = drive.step().chunks
    assert (chunk.start, chunk.count, request.cached_tokens) == (4, 2, 4)
    with pytest.raises(ValueError, match="comes with 6 computed tokens of 6"):
        Request(2, 6, 7, received=6)


def test_steps_at_once_are_still_right_if_a_request_was_added_meanwhile():
    drive = Drive(SchedulerConfig(num_blocks=20, block_size=4))
    first = drive.add(0, 3, 9, 0)
    drive.keys = lambda request: None
    drive.step()
    assert drive.scheduler.steady() == 8
    second = drive.add(1, 3, 9, 1)
    drive.scheduler.advance(5)
    assert (first.known, second.state) == (9, "waiting")
    assert [chunk.request for chunk in drive.step().chunks] == [first, second]
