import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from bilstm import atomic_folder
from bilstm.errors import InputNotFoundError, ModelFolderError, OutputError, TrainingDivergedError
from bilstm.model_folder import check_output, check_weights, load_model, pack_tensors, save_model, unpack_tensors
from bilstm.strict_json import read_strict_json, write_json

WEIGHTS = {
    "layers.0.weight": np.arange(12, dtype=np.float32).reshape(4, 3),
    "layers.1.bias": np.zeros((0, 4), np.float32),
    "count": np.array(7, dtype=np.int64),
}


def save(folder, number=1, **changes):
    content = {
        "config": {"layers": [], "number": number},
        "weights": {**WEIGHTS, "layers.2.bias": np.full(5, number, np.float32)},
        "files": {"vocabulary.txt": "gut\nschön\n", "blob": b"\x00\xff"},
        "metrics": {"accuracy": 0.5},
    }
    return save_model(folder, **{**content, **changes})


def number_of(folder):
    return load_model(folder).config["number"]


def write_manifest(folder, **changes):
    """Change the manifest as someone with a newer or another tool would: its own hash is right."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    body = {**{key: value for key, value in manifest.items() if key != "sha256"}, **changes}
    digest = hashlib.sha256(write_json(body)).hexdigest()
    (folder / "manifest.json").write_bytes(write_json({**body, "sha256": digest}))


def replace_file(folder, name, content):
    """Change a file and its entry, so that all hashes are right."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / "manifest.json").read_bytes())["files"]
    files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_manifest(folder, files=files)


def test_what_is_saved_is_loaded(tmp_path):
    path = save(tmp_path / "runs" / "model")
    model = load_model(path)
    assert model.config == {"layers": [], "number": 1}
    assert model.metrics == {"accuracy": 0.5}
    assert model.files == {"vocabulary.txt": "gut\nschön\n".encode(), "blob": b"\x00\xff"}
    assert list(model.weights) == sorted([*WEIGHTS, "layers.2.bias"])
    for name, weight in WEIGHTS.items():
        assert model.weights[name].dtype == weight.dtype
        assert model.weights[name].shape == weight.shape
        assert (model.weights[name] == weight).all()
        assert weight.size == 0 or model.weights[name].ctypes.data % 64 == 0
        assert not model.weights[name].flags.writeable
    assert os.listdir(tmp_path / "runs") == ["model"]


def test_hashes_and_weights_are_as_other_tools_read_them(tmp_path):
    path = save(tmp_path / "model")
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    assert sorted([*manifest["files"], "manifest.json"]) == sorted(os.listdir(path))
    for name, entry in manifest["files"].items():
        digest = subprocess.run(["sha256sum", path / name], capture_output=True, text=True, check=True).stdout.split()[
            0
        ]
        assert (entry["sha256"], entry["size"]) == (digest, (path / name).stat().st_size)
    theirs = safetensors.numpy.load_file(path / "weights.safetensors")
    assert all((theirs[name] == weight).all() for name, weight in WEIGHTS.items())


def test_equal_models_are_equal_bytes(tmp_path):
    first, second = (
        save(tmp_path / "a"),
        save(tmp_path / "b", weights=dict(reversed(load_model(tmp_path / "a").weights.items()))),
    )
    for name in os.listdir(first):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_memory_order_of_a_weight_does_not_matter(tmp_path):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = save(tmp_path / "model", weights={"w": np.asfortranarray(weight), "part": weight[:, ::2]})
    assert (load_model(path).weights["w"] == weight).all()
    assert (load_model(path).weights["part"] == weight[:, ::2]).all()


def test_an_existing_model_is_replaced_only_when_asked(tmp_path):
    path = save(tmp_path / "model", 1)
    with pytest.raises(OutputError, match="exists already") as caught:
        save(path, 2)
    assert caught.value.exit_code == 73
    assert number_of(path) == 1
    save(path, 3, overwrite=True, files={})
    assert number_of(path) == 3
    assert "vocabulary.txt" not in os.listdir(path)
    assert os.listdir(tmp_path) == ["model"]


def test_an_empty_folder_may_be_written_to(tmp_path):
    (tmp_path / "model").mkdir()
    assert number_of(save(tmp_path / "model")) == 1
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_is_no_model_is_never_touched(tmp_path):
    home = tmp_path / "documents"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    with pytest.raises(
        OutputError, match=r"documents is not a model folder that may be overwritten: .*no manifest.json"
    ):
        save(home, overwrite=True)
    (home / "manifest.json").write_text('{"name": "web app"}')
    with pytest.raises(OutputError, match="not the manifest of a bilstm model"):
        save(home, overwrite=True)
    assert (home / "thesis.txt").read_text() == "years of work"


def test_files_of_others_inside_a_model_folder_are_not_lost(tmp_path):
    path = save(tmp_path / "model")
    (path / "notes.txt").write_text("mine")
    for refused in (lambda: save(path, 2, overwrite=True), lambda: check_output(path, overwrite=True)):
        with pytest.raises(OutputError, match=r"holds files that are not of this model \('notes.txt', 1 in all\)"):
            refused()
    assert number_of(path) == 1


def test_a_damaged_model_is_not_overwritten(tmp_path):
    path = save(tmp_path / "model")
    (path / "manifest.json").write_bytes((path / "manifest.json").read_bytes().replace(b"size", b"sise"))
    with pytest.raises(OutputError, match="is not a model folder that may be overwritten"):
        save(path, 2, overwrite=True)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "model").write_text("x")
    with pytest.raises(OutputError, match="exists and is not a folder"):
        save(tmp_path / "model", overwrite=True)
    with pytest.raises(OutputError, match="is not a folder"):
        save(tmp_path / "model" / "deeper")


def test_a_link_to_a_model_is_followed_and_stays(tmp_path):
    save(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    save(tmp_path / "link", 2, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert number_of(tmp_path / "real") == number_of(tmp_path / "link") == 2


def test_check_output_leaves_nothing_and_says_what_saving_would(tmp_path):
    check_output(tmp_path / "a" / "b" / "model")
    assert os.listdir(tmp_path) == []
    path = save(tmp_path / "model")
    check_output(path, overwrite=True)
    with pytest.raises(OutputError, match="exists already"):
        check_output(path)


def test_a_place_that_may_not_be_written_to_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    code = (
        "import os, sys\nfrom bilstm.errors import OutputError\n"
        "from bilstm.model_folder import check_output, save_model\n"
        "os.setuid(65534) if os.getuid() == 0 else None\n"
        "for call in (check_output, lambda folder: save_model(folder, config={}, weights={})):\n"
        "    try:\n        call(sys.argv[1])\n"
        "    except OutputError as error:\n        print(error.exit_code, error)\n"
    )
    # the child gives up root, who may write anywhere; its parent folder must be one it can reach
    for parent in tmp_path.parents:
        if parent.name.startswith(("pytest-", "popen-")):  # pytest's own folders, one more of them with workers
            os.chmod(parent, 0o755)
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "model"], capture_output=True, text=True, check=False)
    tmp_path.chmod(0o755)
    assert done.stdout.count(f"73 {tmp_path} may not be written to") == 2, done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, value):
    path = save(tmp_path / "model")
    with pytest.raises(TrainingDivergedError, match="weight w is not finite; the model is not saved"):
        save(path, 2, overwrite=True, weights={"w": np.array([1, value], np.float32)})
    assert number_of(path) == 1


def test_names_of_files_are_plain_and_never_pickles(tmp_path):
    for name in ("../escape", "a/b", "", ".hidden", "x.pkl", "weights.pt", "w.npz", "manifest.json", "a" * 101):
        with pytest.raises(ModelFolderError, match=r"is not a plain file name|can|which"):
            save(tmp_path / "model", files={name: b""})
    with pytest.raises(ValueError, match=r"config.json is written by save_model itself"):
        save(tmp_path / "model", files={"config.json": b"{}"})
    assert os.listdir(tmp_path) == []


def test_two_writers_leave_one_complete_model_and_remove_nothing_of_each_other(tmp_path):
    path = tmp_path / "model"
    code = (
        "import sys, numpy as np\nfrom bilstm.model_folder import save_model\n"
        "for i in range(40):\n"
        "    save_model(sys.argv[1], config={'number': int(sys.argv[2])},"
        " weights={'w': np.full(3, int(sys.argv[2]), np.float32)}, overwrite=True)\n"
    )
    save(path, files={})
    loads = 0
    writers = [subprocess.Popen([sys.executable, "-c", code, path, str(i)], stderr=subprocess.PIPE) for i in (1, 2)]
    while any(writer.poll() is None for writer in writers):
        model = load_model(path)  # also at the moment when one is exchanged for another
        loads += 1
        assert np.all(model.weights.get("w", 1) == model.config["number"])
    assert loads > 0
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    assert os.listdir(tmp_path) == ["model"]


def test_strays_of_dead_writers_are_removed_and_those_of_living_ones_are_not(tmp_path):
    path = save(tmp_path / "model")
    dead = tmp_path / ".model.bilstm-new-0123456789abcdef"
    dead.mkdir()
    (dead / "weights.safetensors").write_bytes(b"half")
    alive, lock = atomic_folder._make_draft(path)
    assert not dead.exists()
    other = tmp_path / ".model2.bilstm-new-0123456789abcdef"  # of another model
    other.mkdir()
    save(path, 2, overwrite=True)
    assert alive.exists()
    assert other.exists()
    os.close(lock)
    save(path, 3, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == [".model2.bilstm-new-0123456789abcdef", "model"]


def test_without_exchange_the_old_model_comes_back_after_a_crash_between_the_renames(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_folder, "exchange", lambda first, second: False)
    path = save(tmp_path / "model", 1)
    save(path, 2, overwrite=True)
    assert number_of(path) == 2
    assert os.listdir(tmp_path) == ["model"]
    os.rename(path, atomic_folder.backup_of(path))  # what a crash leaves
    assert number_of(path) == 2
    os.rename(path, atomic_folder.backup_of(path))
    save(path, 3, overwrite=True)
    assert number_of(path) == 3
    assert os.listdir(tmp_path) == ["model"]


def test_a_model_can_be_removed_whole(tmp_path):
    path = save(tmp_path / "model")
    atomic_folder.remove_folder(path)
    atomic_folder.remove_folder(path)
    assert os.listdir(tmp_path) == []


def test_a_newer_format_asks_for_an_upgrade(tmp_path):
    path = save(tmp_path / "model")
    write_manifest(path, format_version=2, tool_version="9.1", new_key=[1])
    with pytest.raises(ModelFolderError, match=r"written by bilstm 9.1 in format 2; .*Upgrade: pip install") as caught:
        load_model(path)
    assert caught.value.exit_code == 65


def test_what_is_no_model_folder_is_refused_with_the_reason(tmp_path):
    with pytest.raises(InputNotFoundError, match="there is no such model folder") as caught:
        load_model(tmp_path / "absent")
    assert caught.value.exit_code == 66
    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(ModelFolderError, match=r"model.pt is a pickle: such files can run code"):
        load_model(tmp_path / "model.pt")
    (tmp_path / "model.keras").write_bytes(b"PK")
    with pytest.raises(ModelFolderError, match="Keras"):
        load_model(tmp_path / "model.keras")
    (tmp_path / "text").write_text("x")
    with pytest.raises(ModelFolderError, match="is not a folder"):
        load_model(tmp_path / "text")
    with pytest.raises(ModelFolderError, match=r"has no manifest.json \(model.keras can run code when opened"):
        load_model(tmp_path)


def test_links_and_pipes_inside_a_model_are_refused(tmp_path):
    path, other = save(tmp_path / "model"), save(tmp_path / "other")
    (path / "weights.safetensors").unlink()
    (path / "weights.safetensors").symlink_to(other / "weights.safetensors")
    with pytest.raises(ModelFolderError, match=r"weights.safetensors: is a link that leaves the model folder"):
        load_model(path)
    (path / "weights.safetensors").unlink()
    os.mkfifo(path / "weights.safetensors")
    with pytest.raises(ModelFolderError, match="is not a regular file"):
        load_model(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "key 'a' stands twice"),
        ('{"a": NaN}', "NaN is not a finite number"),
        ('{"a": -Infinity}', "not a finite number"),
        ('{"a": 1e999}', "1e999 is not a finite number"),
        ("[" * 65 + "]" * 65, "nested more than 64 levels"),
        ("[" * 100_000 + "]" * 100_000, "nested more than 64 levels"),
        ('{"a": ' * 70 + "1" + "}" * 70, "nested more than 64 levels"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"a": "\\ud800"}', "not Unicode"),
        ('{"a": 1} x', "not valid JSON"),
        ("", "not valid JSON"),
        ("[1]", "must be an object, found list"),
    ],
)
def test_json_is_read_strictly_even_when_all_hashes_are_right(tmp_path, text, words):
    path = save(tmp_path / "model")
    replace_file(path, "config.json", text.encode())
    with pytest.raises(ModelFolderError, match=words) as caught:
        load_model(path)
    assert "config.json" in str(caught.value)


def test_json_limits_do_not_refuse_what_is_allowed():
    deep = {"a": [{"b": "ü\U0001f600"}]}
    assert read_strict_json(write_json(deep), "x") == deep
    assert read_strict_json(b"[" * 64 + b"]" * 64, "x") is not None
    assert read_strict_json(b'"\\ud83d\\ude00"', "x") == "\U0001f600"
    with pytest.raises(ModelFolderError, match="at most 3 are read"):
        read_strict_json(b"[1,2]", "x", max_bytes=3)


def _safetensors(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "a header of 0 bytes"),
        (b"\xff" * 8 + b"{}", "does not fit"),
        (struct.pack("<Q", 10**9) + b"{}", "does not fit"),
        (_safetensors(b"[]"), "must be an object"),
        (_safetensors(b'{"a": 1, "a": 1}'), "stands twice"),
        (_safetensors({"a": 1}), "must be dtype, shape, data_offsets"),
        (_safetensors({"a": {**F32, "extra": 1}}, bytes(8)), "must be dtype, shape, data_offsets"),
        (_safetensors({"a": {**F32, "dtype": "F8_E4M3"}}, bytes(8)), "type 'F8_E4M3'"),
        (_safetensors({"a": {**F32, "dtype": []}}, bytes(8)), "type"),
        (_safetensors({"a": {**F32, "shape": [-2]}}, bytes(8)), r"shape of 'a' is \[-2\]"),
        (_safetensors({"a": {**F32, "shape": [2**40, 2**40]}}, bytes(8)), "does not fit"),
        (_safetensors({"a": {**F32, "shape": [True, 2]}}, bytes(8)), "shape of 'a'"),
        (_safetensors({"a": {**F32, "shape": [1] * 9}}, bytes(8)), "shape of 'a'"),
        (_safetensors({"a": {**F32, "data_offsets": [0, 8, 9]}}, bytes(8)), "data_offsets of 'a'"),
        (_safetensors({"a": F32}, bytes(7)), "does not fit"),
        (_safetensors({"a": F32}, bytes(9)), "1 bytes belong to no weight"),
        (_safetensors({"a": F32, "b": F32}, bytes(8)), "does not fit"),
        (_safetensors({"a": {**F32, "data_offsets": [4, 12]}}, bytes(12)), "does not fit"),
        (_safetensors({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8)), "does not fit"),
        (
            _safetensors({f"w{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_001)}),
            "20,001 tensors; at most 20,000",
        ),
    ],
)
def test_a_hostile_tensor_file_is_refused(data, words):
    with pytest.raises(ModelFolderError, match=words):
        unpack_tensors(data, "weights.safetensors")


def test_tensors_with_metadata_from_other_writers_are_read():
    data = safetensors.numpy.save(WEIGHTS, metadata={"format": "pt"})
    assert sorted(unpack_tensors(data, "x")) == sorted(WEIGHTS)
    assert (unpack_tensors(pack_tensors(WEIGHTS), "x")["layers.0.weight"] == WEIGHTS["layers.0.weight"]).all()


def test_nan_inside_a_weight_file_is_refused_on_load(tmp_path):
    path = save(tmp_path / "model")
    replace_file(path, "weights.safetensors", pack_tensors({"w": np.array([np.nan], np.float32)}))
    with pytest.raises(ModelFolderError, match="weight w is not finite"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files": {}}, "does not list config.json"),
        ({"files": {"../../etc/passwd": {"size": 1, "sha256": ""}}}, "is not a plain file name"),
        ({"files": {"x.pkl": {"size": 1, "sha256": ""}}}, "'x.pkl' is a pickle"),
        ({"files": {"x": {"size": 1}}}, "must be its size and sha256"),
        ({"files": {"x": {"size": True, "sha256": ""}}}, "must be its size and sha256"),
        ({"files": {f"f{i}": {"size": 1, "sha256": ""} for i in range(1001)}}, "lists 1,001 files"),
        ({"files": []}, "key 'files'"),
        ({"extra": 1}, "key 'extra' is unknown"),
        ({"format_version": "1"}, "key 'format_version'"),
        ({"format_version": 0}, "there is no format 0"),
        ({"format": "other"}, "not the manifest of a bilstm model"),
    ],
)
def test_the_manifest_has_a_closed_schema(tmp_path, changes, words):
    path = save(tmp_path / "model")
    write_manifest(path, **changes)
    with pytest.raises(ModelFolderError, match=words):
        load_model(path)


def test_weights_are_compared_with_what_the_layers_need(tmp_path):
    path = save(tmp_path / "model", weights={"w": np.zeros((2, 3), np.float32)})
    assert load_model(path, expected=lambda config: {"w": (2, 3)}).weights["w"].shape == (2, 3)
    for expected, words in (
        ({"w": (3, 2)}, r"'w' has shape \(2, 3\), should be \(3, 2\)"),
        ({"w": (2, 3), "v": (1,)}, "weight 'v' is missing"),
        ({}, "weight 'w' belongs to no layer"),
    ):
        with pytest.raises(ModelFolderError, match=words):
            load_model(path, expected=lambda config, expected=expected: expected)
    with pytest.raises(ModelFolderError, match="'w' is float64, should be float32"):
        check_weights({"w": np.zeros(1)}, {"w": (1,)})


def test_a_moved_or_copied_model_loads(tmp_path):
    path = save(tmp_path / "model")
    shutil.copytree(path, tmp_path / "copy")
    os.rename(path, tmp_path / "moved")
    assert number_of(tmp_path / "copy") == number_of(tmp_path / "moved") == 1
