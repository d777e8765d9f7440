"""A thousand seeded mutations of a model folder: always our error, never a crash, never another model in silence."""

import json
import os
import shutil

import numpy as np
import pytest

from bilstm.errors import ModelFolderError
from bilstm.model_folder import load_model, save_model

MUTATIONS = 1000
FILES = ("manifest.json", "config.json", "weights.safetensors", "metrics.json", "vocabulary.txt")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for number in (1, 2):
        save_model(
            folder / str(number),
            config={"task": "text-classification", "layers": [{"layer": "linear", "input_size": 40, "output_size": 3}]},
            weights={"layers.0.weight": np.full((3, 40), number, np.float32), "layers.0.bias": np.ones(3, np.float32)},
            files={"vocabulary.txt": "".join(f"word{i + number}\n" for i in range(50))},
            metrics={"accuracy": number / 4},
        )
    return folder


def flip(data, random):
    position = random.integers(len(data))
    data[position] ^= 1 << random.integers(8)


def truncate(data, random):
    del data[random.integers(len(data)) :]


def splat(data, random):
    start = random.integers(len(data))
    run = random.integers(1, 64)
    data[start : start + run] = random.bytes(run)


def insert(data, random):
    position = random.integers(len(data) + 1)
    data[position:position] = random.bytes(random.integers(1, 9))


def zero_block(data, random):
    start = random.integers(len(data))
    data[start : start + 32] = bytes(len(data[start : start + 32]))


def edit_digit(data, random):
    """Change one digit: sizes, offsets, shapes, versions stay well-formed JSON."""
    digits = [i for i, byte in enumerate(data[:600]) if chr(byte).isdigit()]
    position = digits[random.integers(len(digits))] if digits else 0
    data[position] = ord("0") + (data[position] - ord("0") + random.integers(1, 10)) % 10


def exchange_words(data, random):
    """Exchange two runs of four bytes, as two weights would be."""
    first, second = sorted(random.integers(len(data) - 8, size=2))
    second += 4
    data[first : first + 4], data[second : second + 4] = data[second : second + 4], data[first : first + 4]


CHANGES = (flip, truncate, splat, insert, zero_block, edit_digit, exchange_words)


def mutate(folder, other, random):
    """Damage one file of `folder`, or leave it out, or take it from `other`; return what was done."""
    name = FILES[random.integers(len(FILES))]
    kind = random.integers(len(CHANGES) + 2)
    if kind == len(CHANGES):
        (folder / name).unlink()
        return f"{name} removed"
    if kind == len(CHANGES) + 1:
        shutil.copy(other / name, folder / name)
        return f"{name} taken from another model"
    data = bytearray((folder / name).read_bytes())
    CHANGES[kind](data, random)
    write_new(folder / name, data)
    return f"{name}: {CHANGES[kind].__name__}"


def snapshot(folder):
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


def restore(folder, content):
    folder.mkdir(exist_ok=True)
    for name, data in content.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != data:
            write_new(folder / name, data)


def write_new(path, data):
    path.unlink(missing_ok=True)  # some file systems flush a file that is cut and written again
    path.write_bytes(data)


def test_a_thousand_mutations_are_all_found(models, tmp_path):
    random = np.random.default_rng(20240501)
    original = snapshot(models / "1")
    folder = tmp_path / "model"
    done, unchanged = [], 0
    while len(done) < MUTATIONS:
        restore(folder, original)
        what = mutate(folder, models / "2", random)
        if snapshot(folder) == original:  # equal words exchanged, a zero set to zero
            unchanged += 1
            continue
        with pytest.raises(ModelFolderError) as caught:
            load_model(folder)
        text = str(caught.value)
        assert caught.value.exit_code == 65, what
        assert str(folder) in text, what
        assert "\n" not in text, what
        assert len(text) < 1000, what
        done.append(what)
    assert len({what.split(":")[-1].split(" ", 1)[-1] for what in done}) >= len(CHANGES) + 2
    assert unchanged < MUTATIONS


def test_without_the_hashes_damage_to_weights_would_go_unseen(models, tmp_path):
    """The control: the mutations are real, and it is the hashes that find them."""
    random = np.random.default_rng(7)
    original = snapshot(models / "1")
    folder, differing = tmp_path / "model", 0
    for _ in range(100):
        restore(folder, original)
        data = bytearray((folder / "weights.safetensors").read_bytes())
        data[random.integers(len(data) - 480, len(data))] ^= 1 << random.integers(8)
        write_new(folder / "weights.safetensors", data)
        try:
            weights = load_model(folder, verify=False).weights
        except ModelFolderError:  # became NaN or infinite
            continue
        differing += not np.all(weights["layers.0.weight"] == 1)
    assert differing > 50


def test_without_hashes_mutations_still_never_crash(models, tmp_path):
    random = np.random.default_rng(11)
    original = snapshot(models / "1")
    folder, refused = tmp_path / "model", 0
    for _ in range(300):
        restore(folder, original)
        mutate(folder, models / "2", random)
        try:
            load_model(folder, verify=False)
        except ModelFolderError:  # any other exception fails the test
            refused += 1
    assert 100 < refused < 300


def test_files_exchanged_inside_a_model_are_found(models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models / "1", folder)
    os.rename(folder / "config.json", folder / "x")
    os.rename(folder / "metrics.json", folder / "config.json")
    os.rename(folder / "x", folder / "metrics.json")
    with pytest.raises(ModelFolderError, match=r"(config|metrics).json: "):
        load_model(folder)


def test_a_manifest_with_its_own_hash_taken_out_or_made_pretty_is_refused(models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models / "1", folder)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for text in (json.dumps(manifest), json.dumps({k: v for k, v in manifest.items() if k != "sha256"})):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(ModelFolderError, match=r"manifest.json: does not match its own hash"):
            load_model(folder)
