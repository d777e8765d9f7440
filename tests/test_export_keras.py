"""Keras models in and out: by hand, against real Keras where there is one, and nothing unknown is let in."""

import json
import math
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import bilstm
from bilstm.cli import main
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.tokenizers import KerasTokenizer, tokenizer_from_config
from bilstm.description import Convolution, Dropout, Linear, Recurrent
from bilstm.errors import DataError, InputNotFoundError, UsageError
from bilstm.export.keras_export import build_keras, export_keras
from bilstm.export.keras_file import checkpoint_names, read_keras_file, write_keras_file
from bilstm.export.keras_import import import_keras
from made_models import joined_model
from test_export_onnx import SIZE, VOCABULARY, stack, text_model


def layer(kind, config, **more):
    return {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None, **more}


def sequential(*layers):
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": list(layers)}}


EMBEDDING = layer("Embedding", {"name": "e", "input_dim": 3, "output_dim": 1, "mask_zero": True})
DENSE = layer("Dense", {"name": "d", "units": 1, "activation": "sigmoid"})
LSTM = {"name": "r", "units": 1, "return_sequences": False, "activation": "tanh", "recurrent_activation": "sigmoid"}


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def written(path, config, weights):
    path.write_bytes(write_keras_file(config, weights, []))
    return path


def by_hand(tmp_path, cell="LSTM", **changes):
    """A file of one unit, each gate with weights of its own."""
    gates = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[cell]
    kernel, recurrent = np.arange(1, gates + 1)[None] * 0.3, np.arange(1, gates + 1)[None] * -0.2
    bias = np.arange(gates) * 0.1 if cell != "GRU" else np.arange(6).reshape(2, 3) * 0.1
    weights = {
        "layers/embedding/vars/0": np.array([[0.0], [0.5], [-1.5]]),
        f"layers/{checkpoint_names([cell])[0]}/cell/vars/0": kernel,
        f"layers/{checkpoint_names([cell])[0]}/cell/vars/1": recurrent,
        f"layers/{checkpoint_names([cell])[0]}/cell/vars/2": bias,
        "layers/dense/vars/0": np.array([[2.0]]),
        "layers/dense/vars/1": np.array([-0.25]),
    }
    config = sequential(EMBEDDING, layer(cell, {**LSTM, **changes}), DENSE)
    return written(tmp_path / "m.keras", config, weights), kernel[0], recurrent[0], bias


def test_lstm_gates_by_hand(tmp_path):
    path, kernel, recurrent, bias = by_hand(tmp_path)
    h = c = 0.0
    for x in (0.5, -1.5, 0.5):  # Keras keeps the gates in the order i, f, c, o
        i, f, g, o = (x * kernel[gate] + h * recurrent[gate] + bias[gate] for gate in range(4))
        c = sigmoid(f) * c + sigmoid(i) * math.tanh(g)
        h = sigmoid(o) * math.tanh(c)
    found = import_keras(path).model.predict_proba(Ragged.of([[1, 2, 1]]))
    assert found[0, 1] == pytest.approx(sigmoid(2 * h - 0.25), abs=1e-6)


def test_gru_gates_by_hand(tmp_path):
    path, kernel, recurrent, bias = by_hand(tmp_path, "GRU", reset_after=True)
    h = 0.0
    for x in (0.5, -1.5, 0.5):  # z, r, h; the second row of biases stands inside the recurrent product
        z, r = (sigmoid(x * kernel[k] + h * recurrent[k] + bias[0, k] + bias[1, k]) for k in (0, 1))
        n = math.tanh(x * kernel[2] + bias[0, 2] + r * (h * recurrent[2] + bias[1, 2]))
        h = z * h + (1 - z) * n
    found = import_keras(path).model.predict_proba(Ragged.of([[1, 2, 1]]))
    assert found[0, 1] == pytest.approx(sigmoid(2 * h - 0.25), abs=1e-6)


def test_simple_rnn_by_hand(tmp_path):
    path, kernel, recurrent, bias = by_hand(tmp_path, "SimpleRNN", activation="relu")
    h = 0.0
    for x in (0.5, -1.5, 0.5):
        h = max(0.0, x * kernel[0] + h * recurrent[0] + bias[0])
    found = import_keras(path).model.predict_proba(Ragged.of([[1, 2, 1]]))
    assert found[0, 1] == pytest.approx(sigmoid(2 * h - 0.25), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recurrent_activation": "hard_sigmoid"}, "recurrent_activation='hard_sigmoid' is not known"),
        ({"activation": "relu"}, "activation='relu' is not known"),
        ({"go_backwards": True}, "go_backwards=True"),
        ({"stateful": True}, "stateful=True"),
        ({"units": 2}, "have shape"),
    ],
)
def test_settings_that_change_the_numbers_are_refused(tmp_path, changes, message):
    path, *_ = by_hand(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        import_keras(path)


def test_gru_without_reset_after_is_refused(tmp_path):
    path, *_ = by_hand(tmp_path, "GRU", reset_after=False)
    with pytest.raises(DataError, match="reset_after=False"):
        import_keras(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            layer("Lambda", {"name": "evil", "function": {"class_name": "__lambda__", "config": {"code": "4wE="}}}),
            "Lambda",
        ),
        (layer("MultiHeadAttention", {"name": "a"}), "'MultiHeadAttention' is not known"),
        (layer("Dense", {"name": "x"}, module="os"), "somebody's own"),
        (layer("Dense", {"name": "x"}) | {"registered_name": "Package>Mine"}, "somebody's own"),
        (
            layer("Bidirectional", {"name": "b", "layer": layer("Lambda", {}), "merge_mode": "sum"}),
            "Bidirectional of Lambda",
        ),
    ],
)
def test_unknown_layers_are_refused_by_name(tmp_path, entry, message):
    if entry.get("module") == "os":
        entry = {**entry, "module": "os"}
    path = written(
        tmp_path / "m.keras", sequential(EMBEDDING, entry, DENSE), {"layers/embedding/vars/0": np.zeros((3, 1))}
    )
    with pytest.raises(DataError, match=message):
        import_keras(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputNotFoundError, match="no such file"):
        import_keras(tmp_path / "absent.keras")
    (tmp_path / "a.keras").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"is no \.keras file"):
        import_keras(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        archive.writestr("other", "x")
    with pytest.raises(DataError, match=r"holds no config\.json"):
        import_keras(tmp_path / "b.keras")
    with zipfile.ZipFile(tmp_path / "c.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"damaged")
    with pytest.raises(DataError, match="damaged"):
        import_keras(tmp_path / "c.keras")


def test_links_in_the_weights_are_not_followed(tmp_path):
    import io

    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["layers/embedding/vars/0"] = h5py.ExternalLink("/etc/hostname", "/x")
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(sequential(EMBEDDING, DENSE)))
        archive.writestr("model.weights.h5", content.getvalue())
    with pytest.raises(DataError, match="is a link"):
        read_keras_file(tmp_path / "m.keras")


STACKS = {
    "lstm last": stack(Recurrent("lstm", SIZE, 4), kinds=("last",)),
    "gru sum, relu": (*stack(Recurrent("gru", SIZE, 4, merge_mode="sum"), kinds=("mean",))[:-1], Linear(4, 5, "relu"),
                      Dropout(0.2), Linear(5, 3)),
    "rnn relu, one direction": stack(
        Recurrent("rnn", SIZE, 4, bidirectional=False, nonlinearity="relu"), kinds=("last",)
    ),
    "stacked": stack(Dropout(0.2, True), Recurrent("lstm", SIZE, 3, 2), Recurrent("gru", 6, 4, merge_mode="ave"),
                     kinds=("max",)),
    "mul": stack(Recurrent("lstm", SIZE, 3, merge_mode="mul"), kinds=("mean",)),
    "no recurrent layer": stack(kinds=("mean",)),
}  # fmt: skip
BOTH = stack(Recurrent("lstm", SIZE, 4), kinds=("max", "mean"))


@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS)
def test_out_and_in_again_gives_the_same_numbers(layers, tmp_path):
    model = text_model(layers, temperature=1.4)
    export_keras(model, tmp_path / "m.keras")
    again = import_keras(tmp_path / "m.keras").model
    random = np.random.default_rng(0)
    rows = [random.integers(0, VOCABULARY, length) for length in (1, 7, 20, 3)]
    expected = model.predict_proba(Ragged.of(rows))
    np.testing.assert_allclose(again.predict_proba(Ragged.of([row + 1 for row in rows])), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "outputs", "values"),
    [
        (LabelSet("binary", ("no", "yes")), 1, {"temperature": 0.7}),
        (LabelSet("multilabel", ("a", "b", "c"), "|"), 3, {"temperature": 0.7}),
        (LabelSet("regression"), 1, {"shift": 3.0, "scale": 2.5}),
    ],
)
def test_every_kind_of_label(labels, outputs, values, tmp_path):
    model = text_model(stack(Recurrent("lstm", SIZE, 4), kinds=("last",), outputs=outputs), labels, **values)
    export_keras(model, tmp_path / "m.keras")
    if labels.kind == "regression":
        with pytest.raises(UsageError, match="--label-kind"):
            import_keras(tmp_path / "m.keras")
    again = import_keras(tmp_path / "m.keras", label_kind="regression" if labels.kind == "regression" else None).model
    assert again.labels.kind == labels.kind
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (5, 6))
    expected = model.predict_proba(Ragged.of(ids))
    np.testing.assert_allclose(again.predict_proba(Ragged.of(ids + 1)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (stack(Convolution(SIZE, 3)), "convolution"),
        (stack(Recurrent("lstm", SIZE, 3, merge_mode=None), kinds=("max",)), "merge_mode None"),
        (stack(kinds=("attention",)), "attention"),
        (stack(kinds=("last",)), "right after a recurrent layer"),
    ],
)
def test_what_keras_has_no_layer_for(layers, message):
    with pytest.raises(UsageError, match=message):
        build_keras(text_model(layers))


def test_a_joined_model_needs_a_word(tmp_path):
    with pytest.raises(UsageError, match="--network-only"):
        export_keras(joined_model(), tmp_path / "m.keras")
    export_keras(joined_model(), tmp_path / "m.keras", network_only=True)
    with pytest.raises(DataError, match="form a chain"):
        import_keras(tmp_path / "m.keras")  # two poolings side by side are no chain


def test_the_commands(tmp_path, capsys):
    model = text_model(stack(Recurrent("lstm", SIZE, 4), kinds=("last",), outputs=1), LabelSet("binary", ("a", "b")))
    model.save(tmp_path / "model")
    out = tmp_path / "m.keras"
    assert main(["export", str(tmp_path / "model"), "--keras", str(out)]) == 0
    assert "one higher" in capsys.readouterr().err
    again = tmp_path / "again"
    assert main(["import", str(out), "-o", str(again), "--labels", "neg,pos", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["neg", "pos"]
    assert bilstm.load(again).classes_ == ("neg", "pos")
    assert main(["import", str(out), "-o", str(again)]) == 73
    assert main(["import", str(out), "-o", str(tmp_path / "x"), "--labels", "a,b,c"]) == 2
    assert main(["import", str(out), "-o", str(tmp_path / "x"), "--label-kind", "multiclass"]) == 2
    assert not (tmp_path / "x").exists()
    assert main(["export", str(tmp_path / "model"), "--keras", str(tmp_path / "m.h5")]) == 2


def test_keras_tokenizer():
    tokenizer = KerasTokenizer()
    assert tokenizer.tokens("It's GOOD, isn't it?! Élan\u00a0x\n-- y") == [
        "its",
        "good",
        "isnt",
        "it",
        "Élan\u00a0x",
        "y",
    ]
    text = "It's GOOD, -- y"
    assert [text[begin:end] for begin, end in tokenizer.spans(text)] == ["It's", "GOOD,", "y"]
    assert len(tokenizer.spans(text)) == len(tokenizer.tokens(text))
    assert tokenizer_from_config(tokenizer.to_config()) == tokenizer


# ---- real Keras ------------------------------------------------------------------------------------------------------

_KERAS = os.environ.get("BILSTM_KERAS_PYTHON", sys.executable)
_PROGRAM = """
import os, sys, json
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import keras, numpy as np
from keras import layers as L
room = sys.argv[1]
keras.utils.set_random_seed(3)
def stir(model):
    model.set_weights([np.random.normal(size=w.shape, scale=0.5).astype("float32") for w in model.get_weights()])
    return model
models = {
    "deep": keras.Sequential([keras.Input((None,), dtype="int32"), L.Embedding(30, 5), L.SpatialDropout1D(0.2),
        L.Bidirectional(L.LSTM(4, return_sequences=True, dropout=0.1)),
        L.Conv1D(6, 4, padding="same", activation="relu"),
        L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode="ave"), L.GlobalMaxPooling1D(),
        L.Dense(4, activation="relu"), L.Dropout(0.1), L.Dense(1, activation="sigmoid")]),
    "last": keras.Sequential([keras.Input((None,), dtype="int32"), L.Embedding(30, 5, mask_zero=True),
        L.Bidirectional(L.LSTM(4, use_bias=False)), L.Dense(3, activation="softmax")]),
    "rnn": keras.Sequential([keras.Input((None,), dtype="int32"), L.Embedding(30, 5),
        L.SimpleRNN(4, return_sequences=True), L.LSTM(4, return_sequences=True), L.GlobalAveragePooling1D(),
        L.Dense(2, activation="sigmoid")]),
}
ids = np.random.randint(1, 30, (7, 11))
np.save(f"{room}/ids.npy", ids)
for name, model in models.items():
    stir(model).save(f"{room}/{name}.keras")
    np.save(f"{room}/{name}.npy", model.predict(ids, verbose=0))
i = keras.Input((None,), dtype="int32")
functional = keras.Model(i, L.Dense(1)(L.Bidirectional(L.LSTM(6))(L.Embedding(30, 5)(i))))
functional.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True), optimizer="adam")
stir(functional).save(f"{room}/functional.keras")
np.save(f"{room}/functional.npy", 1 / (1 + np.exp(-functional.predict(ids, verbose=0))))
texts = json.load(open(f"{room}/texts.json"))
vector = L.TextVectorization(max_tokens=40)
vector.adapt(texts[:-3])
text = keras.Sequential([keras.Input((1,), dtype="string"), vector, L.Embedding(40, 5, mask_zero=True),
    L.Bidirectional(L.LSTM(4)), L.Dense(1, activation="sigmoid")])
stir(text).save(f"{room}/text.keras")
np.save(f"{room}/text.npy", text.predict(keras.ops.convert_to_tensor([[t] for t in texts]), verbose=0))
for name in json.load(open(f"{room}/ours.json")):
    model = keras.models.load_model(f"{room}/{name}.keras")
    np.save(f"{room}/{name}.theirs.npy", model.predict(np.load(f"{room}/{name}.ids.npy"), verbose=0))
"""
TEXTS = [
    "A good film, isn't it?", "BAD bad Bad!", "the end was good; the start was bad", "It's 7/10", "what - ever",
    "unknown words here", "Über café GOOD", "good",
]  # fmt: skip


@pytest.fixture(scope="module")
def keras_room(tmp_path_factory):
    found = subprocess.run([_KERAS, "-c", "import importlib.util as u; print(bool(u.find_spec('keras')))"],
                           capture_output=True, text=True)  # fmt: skip
    if found.stdout.strip() != "True":
        pytest.skip("there is no Keras; BILSTM_KERAS_PYTHON can name a Python that has it")
    room = tmp_path_factory.mktemp("keras")
    (room / "texts.json").write_text(json.dumps(TEXTS))
    ours = {**STACKS, "max and mean": BOTH}
    random = np.random.default_rng(1)
    for number, layers in enumerate(ours.values()):
        (room / f"ours{number}.keras").write_bytes(build_keras(text_model(layers, temperature=1.4)))
        np.save(room / f"ours{number}.ids.npy", random.integers(0, VOCABULARY, (5, 9)) + 1)
    (room / "ours.json").write_text(json.dumps([f"ours{number}" for number in range(len(ours))]))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([_KERAS, "-c", _PROGRAM, str(room)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return room, ours


@pytest.mark.parametrize("name", ["deep", "last", "rnn", "functional"])
def test_real_keras_models_predict_alike(keras_room, name):
    room, _ = keras_room
    model = import_keras(room / f"{name}.keras").model
    expected = np.load(room / f"{name}.npy")
    found = model.predict_proba(Ragged.of(np.load(room / "ids.npy")))
    found = found[:, 1:] if expected.shape[1] == 1 else found
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_real_keras_model_of_texts_predicts_alike(keras_room, tmp_path):
    room, _ = keras_room
    import_keras(room / "text.keras", labels=["neg", "pos"]).model.save(tmp_path / "model")
    model = bilstm.load(tmp_path / "model")
    np.testing.assert_allclose(model.predict_proba(TEXTS)[:, 1:], np.load(room / "text.npy"), atol=1e-5)


def test_real_keras_runs_what_we_write(keras_room):
    room, ours = keras_room
    for number, layers in enumerate(ours.values()):
        model = text_model(layers, temperature=1.4)
        expected = model.predict_proba(Ragged.of(np.load(room / f"ours{number}.ids.npy") - 1))
        np.testing.assert_allclose(np.load(room / f"ours{number}.theirs.npy"), expected, atol=1e-5)
