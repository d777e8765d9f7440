import io
import math
import os
import signal
import threading

import numpy as np
import pytest
import torch
from torch import nn

from bilstm.errors import TrainingDivergedError, UsageError
from bilstm.train_config import TrainConfig
from bilstm.training import events
from bilstm.training.averaging import WeightAverage
from bilstm.training.denormals import all_threads_flush, flushed_denormals
from bilstm.training.loop import DevScore, train
from bilstm.training.progress import ProgressPrinter, epoch_line
from bilstm.training.schedule import learning_rate_at
from training_example import Example, equal_weights


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _config(**changes):
    return TrainConfig(**{"max_epochs": 3, "learning_rate": 0.02, "patience": None, **changes})


def test_it_learns_exclusive_or():
    example = Example(rows=256)
    result = train(*example.closures, _config(max_epochs=40))
    assert result.best_score >= 0.9
    assert result.stopped_because == "finished"
    assert result.steps == 40 * 16


def test_history_and_result_of_a_run():
    example = Example(rows=40, batch_size=16)  # 3 batches, the last of 8 rows
    losses, scores = [], []

    def step_loss(batch):
        answer = Example.step_loss(example, batch)
        losses.append((answer[0].item(), len(batch)))
        scores.append(answer[1])
        return answer

    result = train(
        example.model, step_loss, example.dev_score, example.batches_of_epoch, _config(max_epochs=2, schedule="linear")
    )
    assert [row.epoch for row in result.history] == [1, 2]
    row = result.history[1]
    assert row.train_loss == pytest.approx(sum(loss * n for loss, n in losses[3:]) / 40, rel=1e-12)
    assert row.train_score == pytest.approx((16 * scores[3] + 16 * scores[4] + 8 * scores[5]) / 40, rel=1e-12)
    assert row.learning_rate == pytest.approx(0.02 * (1 - (1 + 2.5 / 3) / 2))
    assert row.seconds > 0
    assert row.sequences_per_second == pytest.approx(40 / row.seconds)
    assert result.seconds == pytest.approx(sum(r.seconds for r in result.history))
    assert row.dev_score is not None
    assert row.dev_loss is not None


def test_best_weights_are_those_of_the_best_development_score_and_patience_ends_the_run():
    example = Example()
    scores = iter([0.1, 0.5, 0.4, 0.5, 0.3])  # an equal score is no gain
    seen = []

    def dev_score():
        assert not example.model.training
        assert not torch.is_grad_enabled()
        seen.append(example.weights())
        return DevScore(next(scores))

    result = train(
        example.model, example.step_loss, dev_score, example.batches_of_epoch, _config(max_epochs=9, patience=3)
    )
    assert (result.best_epoch, result.best_score, result.stopped_because) == (2, 0.5, "no gain")
    assert len(result.history) == 5
    assert equal_weights(example.weights(), seen[1])
    assert not example.model.training


def test_a_lower_loss_breaks_a_tie_of_scores():
    example = Example()
    scores = iter([DevScore(0.5, 0.7), DevScore(0.5, 0.6), DevScore(0.5, 0.65)])
    result = train(
        example.model, example.step_loss, lambda: next(scores), example.batches_of_epoch, _config(max_epochs=3)
    )
    assert result.best_epoch == 2


def test_the_loss_alone_chooses_where_it_is_told_to():
    example = Example()
    given = [(0.5, 0.7), (0.4, 0.6), (0.9, 0.65), (0.4, 0.6)]  # an equal loss is no gain
    scores = iter([DevScore(score, loss, is_by_loss=True) for score, loss in given])
    result = train(
        example.model, example.step_loss, lambda: next(scores), example.batches_of_epoch, _config(max_epochs=4)
    )
    assert (result.best_epoch, result.best_score) == (2, 0.4)


def test_a_falling_loss_keeps_a_run_going():
    example = Example()
    scores = iter([DevScore(0.5, 0.7), DevScore(0.4, 0.6), DevScore(0.4, 0.5), DevScore(0.4, 0.55), DevScore(0.4, 0.6)])
    result = train(
        example.model,
        example.step_loss,
        lambda: next(scores),
        example.batches_of_epoch,
        _config(max_epochs=9, patience=2),
    )
    assert (result.best_epoch, len(result.history), result.stopped_because) == (1, 5, "no gain")


def test_without_a_development_score_the_last_weights_are_kept():
    example = Example()
    result = train(example.model, example.step_loss, None, example.batches_of_epoch, _config(patience=1))
    assert (result.best_epoch, result.best_score, len(result.history)) == (3, None, 3)


class _Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_run_equals_adam_clipping_schedule_and_averaging_written_out(optimizer):
    data = np.random.default_rng(3)
    x, y = data.normal(size=(8, 2)), data.normal(size=8) * 5
    model = _Line()
    config = TrainConfig(
        max_epochs=3, learning_rate=0.1, schedule="cosine", warmup=0.25, clip_norm=0.5, weight_decay=0.01,
        betas=(0.8, 0.95), epsilon=1e-6, average_decay=0.7, optimizer=optimizer,
    )  # fmt: skip

    def step_loss(batch):
        rows = torch.tensor(batch)
        return ((torch.tensor(x)[rows] @ model.weight - torch.tensor(y)[rows]) ** 2).mean()

    train(model, step_loss, None, lambda epoch: [[0, 1, 2, 3], [4, 5, 6, 7]], config)

    w, m, v, average = np.array([0.5, -1.0]), np.zeros(2), np.zeros(2), np.zeros(2)
    for step in range(6):
        rows = slice(0, 4) if step % 2 == 0 else slice(4, 8)
        gradient = 2 * x[rows].T @ (x[rows] @ w - y[rows]) / 4
        gradient *= min(1.0, 0.5 / (math.sqrt((gradient**2).sum()) + 1e-6))  # torch adds 1e-6 to the norm
        done = (step + 0.5) / 6
        rate = 0.1 * (done / 0.25 if done < 0.25 else 0.5 * (1 + math.cos(math.pi * (done - 0.25) / 0.75)))
        if optimizer == "adamw":
            w = w * (1 - rate * 0.01)
        else:
            gradient = gradient + 0.01 * w
        m, v = 0.8 * m + 0.2 * gradient, 0.95 * v + 0.05 * gradient**2
        w = w - rate * (m / (1 - 0.8 ** (step + 1))) / (np.sqrt(v / (1 - 0.95 ** (step + 1))) + 1e-6)
        average = 0.7 * average + 0.3 * w
    np.testing.assert_allclose(model.weight.detach().numpy(), average / (1 - 0.7**6), rtol=1e-10)


@pytest.mark.parametrize(
    ("schedule", "warmup", "points"),
    [
        ("constant", None, {0.0: 2.0, 0.5: 2.0, 1.0: 2.0}),
        ("constant", 0.1, {0.05: 1.0, 0.1: 2.0, 1.0: 2.0}),
        ("linear", 0.2, {0.1: 1.0, 0.2: 2.0, 0.6: 1.0, 1.0: 0.0}),
        ("cosine", None, {0.0: 2.0, 1 / 3: 1.5, 0.5: 1.0, 2 / 3: 0.5, 1.0: 0.0}),
        ("one-cycle", None, {0.0: 0.08, 0.15: 1.04, 0.3: 2.0, 0.65: 1.000004, 1.0: 0.000008}),
        ("one-cycle", 0.5, {0.25: 1.04, 0.5: 2.0, 0.75: 1.000004}),
    ],
)
def test_schedules_at_points_worked_out_by_hand(schedule, warmup, points):
    config = TrainConfig(learning_rate=2.0, schedule=schedule, warmup=warmup)
    for done, rate in points.items():
        assert learning_rate_at(config, done) == pytest.approx(rate, abs=1e-9)


def test_average_against_numbers_worked_out_by_hand():
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.5)
    with average.in_place():
        before = model.weight.item()
    for value in (8.0, 4.0, 1.0):
        nn.init.constant_(model.weight, value)
        average.update()
    with average.in_place():
        # (8/4 + 4/2 + 1) / (1/4 + 1/2 + 1)
        assert model.weight.item() == pytest.approx(5 / 1.75)
    assert model.weight.item() == 1.0
    assert before != 1.0


def test_averaged_weights_are_scored_and_kept_while_training_goes_on_with_the_raw_ones():
    plain, averaged = Example(), Example()
    trace, scored = [], []

    def plain_step(batch):
        answer = plain.step_loss(batch)
        trace.append(plain.weights())
        return answer

    def score():
        scored.append(averaged.weights())
        return DevScore(len(scored))

    train(plain.model, plain_step, None, plain.batches_of_epoch, _config(max_epochs=2))
    train(
        averaged.model, averaged.step_loss, score, averaged.batches_of_epoch, _config(max_epochs=2, average_decay=0.9)
    )
    after = [*trace[1:], plain.weights()]  # weights after steps 1..8 of the run without averaging
    for epoch, count in ((0, 4), (1, 8)):
        for name in after[0]:
            factors = [0.9 ** (count - 1 - i) for i in range(count)]
            mean = sum(f * w[name].double() for f, w in zip(factors, after[:count], strict=True)) / sum(factors)
            np.testing.assert_allclose(scored[epoch][name], mean, rtol=2e-5, atol=2e-6)
    assert equal_weights(averaged.weights(), scored[1])


def test_equal_seeds_repeat_and_other_seeds_do_not():
    found = []
    for seed in (3, 3, 4):
        example = Example()
        train(*example.closures, _config(seed=seed))
        found.append(example.weights())
    assert equal_weights(found[0], found[1])
    assert not equal_weights(found[0], found[2])


def test_masks_are_asked_for_by_seed_and_step():
    asked = []

    class Recorder:
        def start_step(self, seed, step):
            asked.append((seed, step))

    example = Example()
    train(*example.closures, _config(max_epochs=2, seed=9), randomness=Recorder())
    assert asked == [(9, step) for step in range(8)]


def test_torch_is_left_as_it_was():
    example = Example()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    before = signal.getsignal(signal.SIGINT)
    train(*example.closures, _config(threads=2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == 1
    assert (torch.tensor([1e-30]) * 1e-10).item() != 0.0
    assert signal.getsignal(signal.SIGINT) is before


def _products_by_thread(threads):
    """Tiny products computed by each thread of the pool, as they are in memory."""
    products = (torch.full((threads * 2**20,), 1e-30) * 1e-10).view(torch.int32)
    return [bool(part.any()) for part in products.chunk(threads)]


@pytest.mark.parametrize("is_warm", [True, False])
def test_denormals_are_flushed_on_every_thread_and_as_before_afterwards(is_warm):
    torch.set_num_threads(2)
    if is_warm:  # the pool was started without the flag
        assert _products_by_thread(2) == [True, True]
    with flushed_denormals() as all_flush:
        assert all_flush
        assert _products_by_thread(2) == [False, False]
        assert torch.get_num_threads() == 2
    assert _products_by_thread(2) == [True, True]


def test_the_probe_sees_a_thread_that_does_not_flush():
    torch.set_num_threads(2)
    assert _products_by_thread(2) == [True, True]
    torch.set_flush_denormal(True)  # what torch offers alone: only this thread
    try:
        assert not all_threads_flush()
    finally:
        torch.set_flush_denormal(False)


def _broken(example, at_step, how):
    def step_loss(batch):
        loss, score = Example.step_loss(example, batch)
        if example.steps_seen == at_step:
            loss = loss * float("nan") if how == "loss" else loss + (example.model[0].weight - 1e30).sum() * 1e38
        return loss, score

    def gradient(batch):
        loss, score = Example.step_loss(example, batch)
        if example.steps_seen == at_step:  # a finite loss with a gradient that is not: sqrt at 0
            loss = loss + torch.sqrt((example.model[0].weight * 0).sum())
        return loss, score

    return gradient if how == "gradient" else step_loss


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_numbers_that_are_not_finite_end_the_run_with_the_best_weights(how):
    example, told = Example(), []
    kept = []

    def dev_score():
        kept.append(example.weights())
        return DevScore(1.0)

    with pytest.raises(TrainingDivergedError) as caught:
        train(
            example.model,
            _broken(example, 7, how),
            dev_score,
            example.batches_of_epoch,
            _config(),
            progress=told.append,
        )
    rows = ", ".join(str(row) for row in example.batches_of_epoch(2)[2][:5])
    assert f"epoch 2, step 7 (batch 3, rows {rows}, ...): the " in str(caught.value)
    assert "nan" in str(caught.value)
    assert "The best weights so far (epoch 1) are kept." in str(caught.value)
    assert caught.value.exit_code == 70
    assert caught.value.result.stopped_because == "diverged"
    assert len(caught.value.result.history) == 1
    assert equal_weights(example.weights(), kept[0])
    assert told[-1].stopped_because == "diverged"


def test_weights_and_development_scores_that_are_not_finite_end_the_run():
    example = Example()
    with pytest.raises(TrainingDivergedError, match="epoch 1: the development score is nan"):
        train(example.model, example.step_loss, lambda: DevScore(math.nan), example.batches_of_epoch, _config())

    example = Example()

    def wreck():
        with torch.no_grad():
            example.model[0].weight[0, 0] = math.inf

    def step_loss(batch):
        answer = example.step_loss(batch)
        if example.steps_seen == 4:
            example.model[0].weight.register_post_accumulate_grad_hook(lambda parameter: wreck())
        return answer

    with pytest.raises(TrainingDivergedError, match=r"epoch 1: the norm of the weights is (inf|nan)"):
        train(example.model, step_loss, example.dev_score, example.batches_of_epoch, _config())


def test_an_epoch_without_batches_is_refused():
    example = Example()
    with pytest.raises(UsageError, match="epoch 1 has 0 batches"):
        train(example.model, example.step_loss, None, lambda epoch: [], _config())


def _with_sigint(example, at_step, times=1):
    def step_loss(batch):
        answer = Example.step_loss(example, batch)
        if example.steps_seen == at_step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return answer

    return step_loss


def test_the_first_ctrl_c_finishes_the_step_and_keeps_the_best_weights():
    example, kept = Example(), []
    before = signal.getsignal(signal.SIGINT)  # a shell's background job begins with Ctrl-C ignored

    def dev_score():
        kept.append(example.weights())
        return DevScore(0.5)

    result = train(example.model, _with_sigint(example, 6), dev_score, example.batches_of_epoch, _config())
    assert (result.stopped_because, result.steps, len(result.history), result.best_epoch) == ("interrupted", 6, 1, 1)
    assert len(kept) == 1
    assert equal_weights(example.weights(), kept[0])
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_the_last_step_of_an_epoch_evaluates_nothing():
    example = Example()
    result = train(example.model, _with_sigint(example, 4), example.dev_score, example.batches_of_epoch, _config())
    assert (result.stopped_because, result.steps, result.best_epoch) == ("interrupted", 4, 0)


def test_a_second_ctrl_c_stops_at_once():
    example = Example()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(example.model, _with_sigint(example, 2, times=2), None, example.batches_of_epoch, _config())
    assert example.steps_seen == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_it_runs_in_other_threads_than_the_main_one():
    example, results = Example(), []
    thread = threading.Thread(target=lambda: results.append(train(*example.closures, _config())))
    thread.start()
    thread.join()
    assert results[0].stopped_because == "finished"


def test_events_come_in_order():
    example, told = Example(), []
    train(*example.closures, _config(max_epochs=1), progress=told.append)
    names = [type(event).__name__ for event in told]
    assert names == ["EpochStarted", *["StepDone"] * 4, "EvaluationStarted", "EpochDone", "TrainingEnded"]
    assert [event.position for event in told[1:5]] == [1, 2, 3, 4]


ROW = events.EpochRow(2, 0.41234, 0.9, 0.3, 0.87654, 12.34, 1234.5, 0.001)


def test_an_epoch_as_a_plain_line():
    assert epoch_line(ROW, 20, True, "dev accuracy") == (
        "epoch  2/20  loss 0.4123  train score 0.9000  dev accuracy 0.8765 (best)  dev loss 0.3000  "
        "1,234 sequences/s  12.3 s"
    )


def test_plain_lines_where_there_is_no_terminal():
    stream, example = io.StringIO(), Example()
    with ProgressPrinter(stream=stream) as progress:
        assert progress.mode == "lines"
        train(*example.closures, _config(max_epochs=2), progress=progress)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/2  loss ")
    assert lines[-1].startswith("training ended after ")
    assert "\x1b" not in stream.getvalue()


def test_slow_epochs_speak_now_and_then(monkeypatch):
    stream, clock = io.StringIO(), [100.0]
    monkeypatch.setattr("bilstm.training.progress.time.monotonic", lambda: clock[0])
    progress = ProgressPrinter("lines", stream)
    for step in range(1, 31):  # one second each
        clock[0] += 1.0
        progress(events.StepDone(1, 5, step, 30, 0.5, 0.001, 99.0))
    assert stream.getvalue().splitlines() == [
        f"epoch 1/5  {share}%  loss 0.5000  99 sequences/s  {left} left at most"  # of 150 steps of a second
        for share, left in (("33", "2:20"), ("67", "2:10"), ("100", "2:00"))
    ]


def test_the_time_left_is_that_of_this_training_where_several_follow_each_other(monkeypatch):
    stream, clock = io.StringIO(), [100.0]
    monkeypatch.setattr("bilstm.training.progress.time.monotonic", lambda: clock[0])
    progress = ProgressPrinter("lines", stream)
    for seconds in (50.0, 1.0):  # the first model is slow, the second one is not
        for step in range(1, 31):
            clock[0] += seconds
            progress(events.StepDone(1, 1, step, 30, 0.5, 0.001, 99.0))
    assert stream.getvalue().splitlines()[-2:] == [
        f"epoch 1/1  {share}%  loss 0.5000  99 sequences/s  {left} left at most"
        for share, left in (("67", "0:10"), ("100", "0:00"))
    ]


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("has_colours", [True, False])
def test_a_live_bar_in_a_terminal(monkeypatch, has_colours):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    if not has_colours:
        monkeypatch.setenv("NO_COLOR", "1")
    stream, example = _Terminal(), Example()
    with ProgressPrinter(stream=stream, score_name="dev accuracy") as progress:
        assert progress.mode == "bar"
        train(*example.closures, _config(max_epochs=2), progress=progress)
    shown = stream.getvalue()
    assert "epoch 1/2  loss " in shown
    assert "dev accuracy" in shown
    assert "4/4" in shown
    assert ("\x1b[38;5" in shown or "\x1b[3" in shown.replace("\x1b[?", "")) == has_colours


def test_silent_says_nothing_and_a_dumb_terminal_gets_lines(monkeypatch):
    stream = _Terminal()
    ProgressPrinter("silent", stream)(events.EpochDone(ROW, 20, True))
    assert stream.getvalue() == ""
    monkeypatch.setenv("TERM", "dumb")
    assert ProgressPrinter(stream=stream).mode == "lines"
