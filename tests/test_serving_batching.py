"""Requests that wait together: bounds, order, what is never run, and what a failure touches."""

import asyncio
import threading
import time

import pytest

from bilstm.serving.batching import Batcher, BatchLimits, ClientPresence, rough_steps
from bilstm.serving.refusal import Refusal

WIDE = BatchLimits(texts=64, steps=10_000, wait_ms=0.0, waiting=100, waiting_chars=100_000)


class Recorder:
    """Runs texts, keeps what was run together, and can be held."""

    def __init__(self):
        self.batches, self.gate = [], threading.Event()
        self.gate.set()

    def __call__(self, texts):
        self.gate.wait(60)
        self.batches.append(list(texts))
        if "poison" in texts:
            raise ValueError("poisoned")
        return [text.upper() for text in texts]


async def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


def batched(limits, scenario):
    """Run a scenario of (batcher, submit) on a loop; the batcher is stopped after it."""

    async def main():
        batcher = Batcher("test", limits, asyncio.get_running_loop())

        def submit(run, *texts, presence=None, seconds=100.0):
            return batcher.submit(run, list(texts), presence or ClientPresence(), seconds)

        try:
            return await scenario(batcher, submit)
        finally:
            await asyncio.to_thread(batcher.stop)

    return asyncio.run(main())


async def held(batcher, submit, run):
    """Keep the thread busy with one request, so that what follows waits."""
    run.gate.clear()
    first = submit(run, "first")
    await until(lambda: batcher.waiting == 0)
    return first


def test_waiting_requests_run_together_and_each_gets_its_own():
    run = Recorder()

    async def scenario(batcher, submit):
        first = await held(batcher, submit, run)
        futures = [submit(run, f"a{number}", f"b{number}") for number in range(5)]
        run.gate.set()
        assert await first == ["FIRST"]
        return [await future for future in futures]

    assert batched(WIDE, scenario) == [[f"A{number}", f"B{number}"] for number in range(5)]
    assert run.batches == [["first"], [f"{letter}{number}" for number in range(5) for letter in "ab"]]


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        (BatchLimits(4, 10_000, 0.0, 100, 10_000), [4, 4, 2]),
        (BatchLimits(100, 6, 0.0, 100, 10_000), [6, 4]),  # each of these texts counts as one step
        (BatchLimits(1, 10_000, 0.0, 100, 10_000), [2, 2, 2, 2, 2]),  # a larger request is a batch of its own
    ],
)
def test_batches_keep_their_bounds(limits, wanted):
    run = Recorder()

    async def scenario(batcher, submit):
        first = await held(batcher, submit, run)
        futures = [submit(run, "x", "y") for _ in range(5)]
        run.gate.set()
        await asyncio.gather(first, *futures)

    batched(limits, scenario)
    assert [len(batch) for batch in run.batches[1:]] == wanted


def test_a_batch_waits_for_more_only_after_company():
    run = Recorder()
    limits = BatchLimits(3, 10_000, 1e6, 100, 10_000)  # it would wait for minutes

    async def scenario(batcher, submit):
        await submit(run, "alone")  # nobody else: at once
        assert run.batches == [["alone"]]
        first = await held(batcher, submit, run)
        pair = [submit(run, "a"), submit(run, "b")]
        run.gate.set()
        await first
        third = submit(run, "c")  # fills the batch before its time is over
        await asyncio.gather(*pair, third)

    batched(limits, scenario)
    assert run.batches[-1] == ["a", "b", "c"]


def test_models_are_not_mixed_and_the_oldest_goes_first():
    one, two = Recorder(), Recorder()
    order = []

    async def scenario(batcher, submit):
        first = await held(batcher, submit, one)
        waiting = [submit(two, "t1"), submit(one, "o1"), submit(two, "t2"), submit(one, "o2")]
        for number, future in enumerate(waiting):
            future.add_done_callback(lambda _, number=number: order.append(number))
        one.gate.set()
        await asyncio.gather(first, *waiting)
        await asyncio.sleep(0)

    batched(WIDE, scenario)
    assert two.batches == [["t1", "t2"]]
    assert one.batches == [["first"], ["o1", "o2"]]
    assert order == [0, 2, 1, 3]


def test_clients_that_left_and_times_that_are_over_are_never_run():
    run = Recorder()

    async def scenario(batcher, submit):
        first = await held(batcher, submit, run)
        gone = ClientPresence()
        left, late = submit(run, "gone", presence=gone), submit(run, "late", seconds=0.01)
        kept = submit(run, "kept")
        gone.is_gone = True
        await asyncio.sleep(0.05)
        run.gate.set()
        assert await kept == ["KEPT"]
        with pytest.raises(Refusal) as found:
            await late
        assert (found.value.status, found.value.code) == (503, "timeout")
        assert found.value.headers["Retry-After"] == "1"
        assert not left.done()
        await first

    batched(WIDE, scenario)
    assert run.batches == [["first"], ["kept"]]


def test_one_bad_request_does_not_spoil_others():
    run = Recorder()

    async def scenario(batcher, submit):
        first = await held(batcher, submit, run)
        futures = [submit(run, text) for text in ("a", "poison", "b")]
        run.gate.set()
        await first
        return await asyncio.gather(*futures, return_exceptions=True)

    good, bad, other = batched(WIDE, scenario)
    assert (good, other) == (["A"], ["B"])
    assert isinstance(bad, ValueError)


def test_a_full_queue_refuses_with_a_time():
    run = Recorder()
    limits = BatchLimits(64, 10_000, 0.0, waiting=2, waiting_chars=100)

    async def scenario(batcher, submit):
        first = await held(batcher, submit, run)
        waiting = [submit(run, "x" * 60)]
        with pytest.raises(Refusal) as found:
            submit(run, "y" * 60)  # too many characters
        assert found.value.code == "overloaded"
        waiting.append(submit(run, "z"))
        with pytest.raises(Refusal) as found:
            submit(run, "z")  # too many requests
        assert (found.value.status, found.value.code) == (503, "overloaded")
        assert int(found.value.headers["Retry-After"]) >= 1
        run.gate.set()
        await asyncio.gather(first, *waiting)

    batched(limits, scenario)


def test_stopping_runs_what_waits_and_takes_no_more():
    run = Recorder()

    async def scenario(batcher, submit):
        first = await held(batcher, submit, run)
        waiting = submit(run, "waiting")
        stopping = asyncio.create_task(asyncio.to_thread(batcher.stop))
        await asyncio.sleep(0.05)
        with pytest.raises(Refusal, match="stopping"):
            submit(run, "late")
        run.gate.set()
        await stopping
        assert batcher.is_idle
        return await asyncio.gather(first, waiting)

    assert batched(WIDE, scenario) == [["FIRST"], ["WAITING"]]


def test_rough_steps_are_not_far_below_the_truth():
    from bilstm.data.tokenizers import WordTokenizer

    for text in (
        "a b c",
        "the film was good, the end was not!",
        "短い映画でした",
        "word" * 100,
        "!" * 50,
        "",
        "it's 3.5",
    ):
        assert rough_steps(text) * 4 >= len(WordTokenizer().tokens(text))
