"""A run that was killed or stopped and resumed ends with the bits of a run that nobody touched."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bilstm.atomic_folder import backup_of, remove_folder
from bilstm.errors import InputNotFoundError, ModelFolderError, OutputError, TrainingDivergedError, UsageError
from bilstm.model_folder import load_model
from bilstm.train_config import TrainConfig
from bilstm.training import events
from bilstm.training.loop import DevScore, train
from training_example import Example, equal_weights

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def benchmark():
    found = importlib.util.spec_from_file_location("resume_benchmark", ROOT / "benchmarks" / "resume.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def forks(benchmark):
    """Starts training processes without importing everything each time."""
    trainer = benchmark.Trainer(1, "torch", is_fresh=False)
    yield trainer
    trainer.close()


@pytest.fixture(scope="module")
def untouched(benchmark, forks, tmp_path_factory):
    """Digest and events of a run that nobody kills."""
    return benchmark.finished_run(forks, tmp_path_factory.mktemp("untouched"))


@pytest.mark.parametrize(("moments", "is_fresh"), [(("saving", "evaluating"), True), (("any", "any"), False)])
def test_kill_9_and_resume_end_with_the_same_bits(benchmark, forks, untouched, tmp_path, moments, is_fresh):
    digest, told = untouched
    trainer = benchmark.Trainer(1, "torch", is_fresh=True) if is_fresh else forks
    kills = benchmark.killed_run(trainer, tmp_path, moments, seed=4, events=told[: len(told) * 3 // 4])
    ended, last_events = benchmark.finished_run(trainer, tmp_path)
    if is_fresh:
        trainer.close()
    assert [kill["was_killed"] for kill in kills] == [True, True]
    assert ended == digest
    assert max(benchmark.lost_steps(kills, last_events)) <= benchmark.CHECKPOINT_STEPS + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "model"]  # nothing half-written stays


CONFIGS = {
    "plain": {},
    "averaged": {"average_decay": 0.8, "schedule": "one-cycle"},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "linear", "warmup": 0.3, "clip_norm": None},
}


def _config(**changes):
    return TrainConfig(**{"max_epochs": 3, "learning_rate": 0.02, "patience": None, "seed": 5, **changes})


class _StopAfter:
    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize(("name", "threads"), [("plain", 1), ("averaged", 1), ("adamw", 1), ("averaged", 2)])
def test_stopping_after_every_few_steps_and_resuming_changes_no_bit(tmp_path, monkeypatch, name, threads):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # a hundred checkpoints; no power fails here
    config = _config(**CONFIGS[name], threads=threads)
    whole = Example(rows=48)
    expected = train(*whole.closures, config)
    for steps in (1, 2, 5):
        folder = tmp_path / str(steps)
        result = None
        for _ in range(20):  # stop again and again, every `steps` batches
            part = Example(seed=99, rows=48)  # other initial weights: all must come from the checkpoint
            if result is None:
                part = Example(rows=48)
            result = train(*part.closures, config, checkpoint=folder, resume=True, stop=_StopAfter(steps))
            if result.stopped_because != "stopped":
                break
        assert result.stopped_because == "finished"
        assert equal_weights(part.weights(), whole.weights())
        assert (result.best_epoch, result.best_score, result.steps) == (
            expected.best_epoch,
            expected.best_score,
            expected.steps,
        )
        for row, other in zip(result.history, expected.history, strict=True):
            assert (row.train_loss, row.train_score, row.dev_loss, row.dev_score, row.learning_rate) == (
                other.train_loss,
                other.train_score,
                other.dev_loss,
                other.dev_score,
                other.learning_rate,
            )
        remove_folder(folder)


def test_the_comparison_sees_a_run_that_resumes_wrongly(tmp_path):
    """The control: without the optimizer's moments the last bits differ."""
    config = _config()
    whole = Example(rows=48)
    train(*whole.closures, config)
    part = Example(rows=48)
    train(*part.closures, config, stop=_StopAfter(5))
    train(*part.closures, config)
    assert not equal_weights(part.weights(), whole.weights())


def test_patience_is_counted_across_a_resume(tmp_path):
    scores = [0.5, 0.4, 0.3, 0.2, 0.1]
    folder = tmp_path / "checkpoint"
    config = _config(max_epochs=9, patience=2)

    def run(stop=None):
        example = Example(rows=48)
        closures = example.model, example.step_loss, lambda: DevScore(scores.pop(0)), example.batches_of_epoch
        return train(*closures, config, checkpoint=folder, resume=True, stop=stop)

    assert run(_StopAfter(7)).stopped_because == "stopped"  # two epochs of three batches, and one batch
    result = run()
    assert (result.stopped_because, len(result.history), result.best_epoch) == ("no gain", 3, 1)
    assert run().stopped_because == "no gain"  # a finished run is finished
    assert len(scores) == 2


def _interrupted(tmp_path, **changes):
    example = Example(rows=48)
    train(
        *example.closures, _config(**changes), checkpoint=tmp_path / "run", stop=_StopAfter(4), data_fingerprint="one"
    )
    return tmp_path / "run"


def test_other_settings_are_refused_and_named(tmp_path):
    folder = _interrupted(tmp_path)
    example = Example(rows=48)
    with pytest.raises(UsageError) as caught:
        train(
            *example.closures,
            _config(learning_rate=0.01, threads=2),
            checkpoint=folder,
            resume=True,
            data_fingerprint="one",
        )
    assert "learning_rate was 0.02, is now 0.01; threads was none, is now 2" in str(caught.value)
    assert str(folder) in str(caught.value)


def test_settings_that_change_no_result_may_change(tmp_path):
    folder = _interrupted(tmp_path)
    example = Example(rows=48)
    config = _config(checkpoint_minutes=None, checkpoint_steps=1)
    result = train(*example.closures, config, checkpoint=folder, resume=True, data_fingerprint="one")
    assert result.stopped_because == "finished"


def test_other_data_is_refused(tmp_path):
    folder = _interrupted(tmp_path)
    with pytest.raises(UsageError, match="the training data is not what it was"):
        train(*Example(rows=48).closures, _config(), checkpoint=folder, resume=True, data_fingerprint="two")


def test_a_run_is_not_lost_by_starting_another_over_it(tmp_path):
    folder = _interrupted(tmp_path)
    before = load_model(folder).files["run.json"]
    with pytest.raises(OutputError, match=r"holds a run that has not ended. Resume it \(--resume\)"):
        train(*Example(rows=48).closures, _config(), checkpoint=folder)
    assert load_model(folder).files["run.json"] == before


def test_resume_without_a_checkpoint_begins_and_says_so(tmp_path):
    told = []
    example = Example(rows=48)
    result = train(*example.closures, _config(), checkpoint=tmp_path / "run", resume=True, progress=told.append)
    assert result.stopped_because == "finished"
    assert "There is no checkpoint" in told[0].text


def test_another_model_or_a_damaged_checkpoint_is_refused(tmp_path):
    folder = _interrupted(tmp_path)
    other = Example(rows=48)
    other.model[0] = torch.nn.Linear(3, 9)
    with pytest.raises(ModelFolderError, match=r"weight '0.bias' does not fit this model"):
        train(*other.closures, _config(), checkpoint=folder, resume=True, data_fingerprint="one")
    data = bytearray((folder / "state.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "state.safetensors").write_bytes(data)
    with pytest.raises(ModelFolderError, match=r"state.safetensors: does not match its hash"):
        train(*Example(rows=48).closures, _config(), checkpoint=folder, resume=True, data_fingerprint="one")


def test_checkpoints_come_every_so_many_batches_and_minutes(tmp_path, monkeypatch):
    def saves(config):
        told = []
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        train(*Example(rows=48).closures, config, checkpoint=folder, progress=told.append)
        return [(e.epoch, e.position) for e in told if isinstance(e, events.CheckpointStarted)]

    ends = [(2, 0), (3, 0), (4, 0)]
    assert saves(_config(checkpoint_minutes=None)) == ends
    assert saves(_config(checkpoint_minutes=None, checkpoint_steps=2)) == sorted([(1, 2), (2, 1), (3, 2), *ends])[:6]
    clock = [0.0]

    def monotonic():
        clock[0] += 30.0
        return clock[0]

    monkeypatch.setattr("bilstm.training.loop.time.monotonic", monotonic)
    assert len(saves(_config(checkpoint_minutes=1.0))) > len(ends)


def test_the_last_good_checkpoint_stays_when_the_numbers_diverge(tmp_path):
    example = Example(rows=48)

    def step_loss(batch):
        loss, score = Example.step_loss(example, batch)
        return (loss * float("nan") if example.steps_seen == 5 else loss), score

    with pytest.raises(TrainingDivergedError, match=r"The last good checkpoint is .*run"):
        train(
            example.model,
            step_loss,
            example.dev_score,
            example.batches_of_epoch,
            _config(),
            checkpoint=tmp_path / "run",
        )
    result = train(*Example(rows=48).closures, _config(), checkpoint=tmp_path / "run", resume=True)
    assert result.stopped_because == "finished"


CTRL_C = """
import sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from training_example import Example
from bilstm.train_config import TrainConfig
from bilstm.training.loop import DevScore, train
example = Example()
def tell(event):
    print(type(event).__name__, flush=True)
config = TrainConfig(max_epochs=100000, patience=None)
result = train(*example.closures, config, checkpoint=sys.argv[1], progress=tell)
print("result", result.stopped_because, flush=True)
"""


def test_ctrl_c_from_outside_saves_and_returns(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CTRL_C, tmp_path / "run", Path(__file__).parent], stdout=subprocess.PIPE, text=True
    )
    with child:
        told = []
        for line in child.stdout:
            told.append(line.strip())
            if told.count("EpochDone") == 2 and told[-1] == "StepDone":
                child.send_signal(signal.SIGINT)
                break
        told += child.stdout.read().split("\n")
    assert child.returncode == 0
    assert told[-2] == "result interrupted"
    assert "EvaluationStarted" not in told[told.index("result interrupted") - 3 :]
    assert load_model(tmp_path / "run").config["training"]["max_epochs"] == 100000


def test_a_checkpoint_is_a_folder_that_is_absent_or_whole(tmp_path):
    with pytest.raises(InputNotFoundError):
        load_model(tmp_path / "run")
    folder = _interrupted(tmp_path)
    os.rename(folder, backup_of(folder))  # a system without exchange, killed between its two renames
    told = []
    train(
        *Example(rows=48).closures,
        _config(),
        checkpoint=folder,
        resume=True,
        data_fingerprint="one",
        progress=told.append,
    )
    assert "Going on from" in told[0].text
    loaded = load_model(folder)
    assert set(loaded.files) == {"state.safetensors", "run.json"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
