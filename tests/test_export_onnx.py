"""Exported ONNX files give our numbers in ONNX Runtime: every layer, cell, merge mode, pooling, label kind and task."""

import json

import numpy as np
import pytest

import bilstm
from bilstm.cli import main
from bilstm.data.labels import LabelSet
from bilstm.data.ragged import Ragged
from bilstm.data.tags import convert_tags
from bilstm.data.vocabulary import IdEncoder
from bilstm.description import Convolution, Dropout, Embedding, Linear, Pooling, Recurrent, WordDropout, weight_shapes
from bilstm.errors import OutputError, UsageError
from bilstm.export import onnx_export
from bilstm.export.gate_orders import GATES, from_torch_order, to_torch_order
from bilstm.export.onnx_export import export_onnx, onnx_session, random_comparisons
from bilstm.export.onnx_graph import GraphBuilder, onnx_library
from bilstm.export.onnx_model import build_tagger_onnx, build_text_onnx, tagger_inputs, text_inputs
from bilstm.export.onnx_viterbi import Chain, add_best_tags
from bilstm.runtime import Model
from bilstm.runtime.crf import CrfWeights, decode
from bilstm.tasks.text_classification import TextModel
from made_models import SENTENCES, joined_model, some_texts, tagger_model

VOCABULARY, SIZE = 40, 6
ALL_KINDS = ("last", "max", "mean", "attention")


def text_model(layers, labels=None, **values) -> TextModel:
    random = np.random.default_rng(1)
    shapes = weight_shapes(layers)
    weights = {name: random.normal(size=shape, scale=0.6).astype(np.float32) for name, shape in shapes.items()}
    labels = labels or LabelSet("multiclass", ("a", "b", "c"))
    return TextModel(IdEncoder(VOCABULARY), labels, Model(layers, weights), weights, **values)


def stack(*middle, kinds=ALL_KINDS, outputs=3):
    features = middle[-1].output_size if middle and hasattr(middle[-1], "output_size") else SIZE
    pooling = Pooling(features, kinds)
    return (Embedding(VOCABULARY, SIZE), *middle, pooling, Linear(pooling.output_size, outputs))


STACKS = {
    "embedding": stack(),
    "dropouts": (WordDropout(0.2), *stack(Dropout(0.5), Dropout(0.5, variational=True))),
    "convolution": stack(Convolution(SIZE, 5, 3)),
    "even convolution": stack(Convolution(SIZE, 5, 4, "tanh")),
    "wide convolution": stack(Convolution(SIZE, 5, 9, "none")),
    "one step convolution": stack(Convolution(SIZE, 5, 1, "sigmoid")),
    "linear": stack(Linear(SIZE, 4, "sigmoid"), Linear(4, 5, "relu")),
    "last after linear": stack(Recurrent("lstm", SIZE, 4), Linear(8, 5, "tanh"), kinds=("last",)),
    "one direction": stack(Recurrent("gru", SIZE, 4, bidirectional=False)),
    "stacked": stack(Recurrent("lstm", SIZE, 4), Dropout(0.3), Recurrent("gru", 8, 3, 2, merge_mode="sum")),
    **{
        f"{cell} {nonlinearity} {merge} {layers}": stack(
            Recurrent(cell, SIZE, 4, layers, True, merge, nonlinearity=nonlinearity)
        )
        for cell, nonlinearity in (("lstm", "tanh"), ("gru", "tanh"), ("rnn", "tanh"), ("rnn", "relu"))
        for merge in ("concat", "sum", "mul", "ave", None)
        for layers in (1, 2)
    },
}


def largest_difference(model, session, rows, seed=5) -> float:
    largest, count = 0.0, 0
    for given, expected in random_comparisons(model, rows, seed=seed):
        found = session.run(list(expected), given)
        count += len(given["lengths"])
        for one, other in zip(found, expected.values(), strict=True):
            assert one.shape == other.shape
            largest = max(largest, float(np.max(np.abs(one - other) / np.maximum(1, np.abs(other)), initial=0.0)))
    assert count == rows
    return largest


@pytest.mark.parametrize("layers", STACKS.values(), ids=STACKS)
def test_every_layer(layers):
    model = text_model(layers)
    # relu states grow without bound and the rounding with them, hence against the size of the value
    assert largest_difference(model, onnx_session(build_text_onnx(model)), 80) < 1e-5


def test_a_thousand_ragged_sequences():
    model = text_model(stack(Recurrent("lstm", SIZE, 16), kinds=("max", "mean"), outputs=3))
    assert largest_difference(model, onnx_session(build_text_onnx(model)), 1000) < 1e-5


KINDS = {
    "binary": (LabelSet("binary", ("no", "yes")), 1, {"temperature": 1.7}),
    "multiclass": (LabelSet("multiclass", ("a", "b", "c")), 3, {"temperature": 0.6}),
    "multilabel": (LabelSet("multilabel", ("a", "b", "c"), "|"), 3, {"temperature": 2.0}),
    "regression": (LabelSet("regression"), 1, {"shift": 4.5, "scale": 3.0}),
}


@pytest.mark.parametrize(("labels", "outputs", "values"), KINDS.values(), ids=KINDS)
def test_every_kind_of_label(labels, outputs, values):
    model = text_model(stack(Recurrent("lstm", SIZE, 4), outputs=outputs), labels, **values)
    session = onnx_session(build_text_onnx(model))
    assert largest_difference(model, session, 80) < 1e-5
    ids = Ragged.of([[1, 2, 3], [], [5]])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, text_inputs(model, ids)), strict=True))
    answers = model.predict_proba(ids)
    given = found["values"][:, 0] if labels.kind == "regression" else found["probabilities"]
    np.testing.assert_allclose(given, answers, atol=1e-5)


def test_what_stands_in_the_padding_does_not_matter():
    model = text_model(stack(Recurrent("lstm", SIZE, 4)))
    session = onnx_session(build_text_onnx(model))
    given = text_inputs(model, Ragged.of([[1, 2, 3, 4, 5], [7, 8]]))
    before = session.run(["logits"], given)[0]
    given["ids"][1, 2:] = 33
    wider = {"ids": np.pad(given["ids"], ((0, 0), (0, 9)), constant_values=3), "lengths": given["lengths"]}
    for other in (given, wider):
        np.testing.assert_allclose(session.run(["logits"], other)[0], before, atol=1e-6)


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """A classifier with linear models beside its network."""
    texts = some_texts()
    model = joined_model(texts)
    folder = tmp_path_factory.mktemp("joined") / "model"
    model.save(folder)
    return folder, model, texts


def test_joined_linear_models_stand_in_the_graph(joined):
    _, model, texts = joined
    session = onnx_session(build_text_onnx(model))
    assert largest_difference(model, session, 200) < 1e-5
    texts = [*texts[:50], "", "good good good bad w1 w2 w1 w2", "nothing of this", "bad"]
    found = session.run(["probabilities"], text_inputs(model, texts))[0]
    np.testing.assert_allclose(found, model.predict_proba(texts), atol=1e-5)


def test_the_network_alone(joined):
    _, model, texts = joined
    session = onnx_session(build_text_onnx(model, network_only=True))
    given = text_inputs(model, texts[:20], network_only=True)
    expected = model.logits_of_ids(model.encoder.encode(texts[:20]))
    np.testing.assert_allclose(session.run(["logits"], given)[0], expected, atol=1e-5)
    joined_logits = model.logits(texts[:20])
    assert np.abs(joined_logits - expected).max() > 0.1  # it is another model, and says so


def test_metadata_is_enough_to_encode(joined):
    _, model, texts = joined
    session = onnx_session(build_text_onnx(model))
    metadata = session.get_modelmeta().custom_metadata_map
    encoder = json.loads(metadata["encoder"])
    ids = {token: number for number, token in enumerate(encoder["tokens"])}
    words = {word: number for number, word in enumerate(json.loads(metadata["ngram_words"]))}
    tokens = list(model.encoder.tokenizer.tokens(texts[0]))
    given = {
        "ids": np.array([[ids.get(token, 0) for token in tokens]]),
        "lengths": np.array([len(tokens)]),
        "ngram_ids": np.array([[words.get(token, -1) for token in tokens]]),
    }
    found = session.run(["probabilities"], given)[0][0]
    np.testing.assert_allclose(found, model.predict_proba(texts[:1])[0], atol=1e-5)
    assert tuple(json.loads(metadata["labels"])["names"]) == model.classes_


TAGGERS = {
    "crf": {},
    "softmax, letters by LSTM": {"head": "softmax", "characters": "lstm", "intents": ()},
    "no letters": {"characters": "none", "trait_dropout": 0.3},
    "no traits": {"cell": "gru", "num_layers": 2, "trait_size": None},
}


@pytest.mark.parametrize("settings", TAGGERS.values(), ids=TAGGERS)
def test_taggers(settings):
    # as new layers have them; with larger ones states may be chaotic: rounding grows along a sequence in any library
    model = tagger_model(**settings, spread=0.25)
    session = onnx_session(build_tagger_onnx(model))
    checked, largest = 0, 0.0
    for given, expected in random_comparisons(model, 1000, seed=5):
        *found, tags = session.run([*expected, "tags"], given)
        for one, other in zip(found, expected.values(), strict=True):
            largest = max(largest, float(np.abs(one - other).max(initial=0.0)))
        lengths = given["lengths"]
        rows = [expected["emissions"][row, :length] for row, length in enumerate(lengths)]
        best, _ = decode(Ragged(np.concatenate(rows), np.cumsum([0, *lengths])), model.tagger.crf)
        own = [row[:length].tolist() for row, length in zip(tags, lengths, strict=True)]
        assert own == [best[row].tolist() for row in range(len(best))]
        assert (tags[np.arange(tags.shape[1]) >= lengths[:, None]] == -1).all()
        checked += len(tags)
    assert largest < 1e-5
    assert checked == 1000
    tokens = [*SENTENCES, ["Anna"], ["never", "Seen", "Okafor"]]
    encoded = model.encode(tokens)
    wanted = {one.name for one in session.get_inputs()}
    given = {k: v for k, v in tagger_inputs(encoded.batch(np.arange(len(tokens)))).items() if k in wanted}
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, given), strict=True))
    best = [_best(found["emissions"][row, :length], found) for row, length in enumerate(given["lengths"])]
    assert [found["tags"][row, :length].tolist() for row, length in enumerate(given["lengths"])] == best
    assert [convert_tags([model.tags[tag] for tag in row], model.scheme) for row in best] == model.predict(tokens)


def _best(emissions, found) -> list[int]:
    """Viterbi search, step by step."""
    if "crf_start" not in found:
        return emissions.argmax(axis=1).tolist()
    score, back = found["crf_start"] + emissions[0], []
    for step in emissions[1:]:
        paths = score[:, None] + found["crf_transitions"]
        back.append(paths.argmax(axis=0))
        score = paths.max(axis=0) + step
    tags = [int((score + found["crf_end"]).argmax())]
    for origin in reversed(back):
        tags.append(int(origin[tags[-1]]))
    return tags[::-1]


@pytest.mark.parametrize("tags", [1, 2, 9])
def test_the_search_alone(tags):
    """Whole numbers, so that many paths score alike: the same one is found as here, which knows forbidden tags too."""
    random = np.random.default_rng(tags)
    helper, tensor = onnx_library().helper, onnx_library().TensorProto
    for trial in range(40):
        transitions, start, end = (
            random.integers(-2, 3, shape).astype(np.float32) for shape in ((tags, tags), (tags,), (tags,))
        )
        transitions[random.random(transitions.shape) < 0.2] = -np.inf
        start[1 + random.integers(0, tags) :] = -np.inf
        np.fill_diagonal(transitions, 1.0)  # some path is always allowed
        end[:1] = 0.0
        graph = GraphBuilder()
        names = (graph.constant(array, name=f"c{n}") for n, array in enumerate((transitions, start, end)))
        mask = graph.mask_of("lengths", "scores")
        graph.add("Identity", add_best_tags(graph, "scores", mask, tags, Chain(*names)), outputs=["tags"])
        inputs = [
            helper.make_tensor_value_info("scores", tensor.FLOAT, ["time", "batch", tags]),
            helper.make_tensor_value_info("lengths", tensor.INT64, ["batch"]),
        ]
        outputs = [helper.make_tensor_value_info("tags", tensor.INT64, ["time", "batch"])]
        session = onnx_session(graph.model(inputs, outputs, "search", {}))
        lengths = random.integers(0, 1 + (trial % 5) * 8, 25) if trial else np.zeros(25, dtype=np.int64)
        scores = random.integers(-3, 4, (max(int(lengths.max()), 1), 25, tags)).astype(np.float32)
        found = session.run(["tags"], {"scores": scores, "lengths": lengths})[0]
        ragged = Ragged.of([scores[:length, row] for row, length in enumerate(lengths)], np.float32)
        ragged = ragged.with_values(ragged.values.reshape(-1, tags))
        best, _ = decode(ragged, CrfWeights(transitions, start, end))
        assert [found[:length, row].tolist() for row, length in enumerate(lengths)] == [
            best[row].tolist() for row in range(25)
        ]
        assert all((found[length:, row] == -1).all() for row, length in enumerate(lengths))


@pytest.mark.parametrize("wrong", [lambda tags: tags[::-1] * 0, lambda tags: tags * 0 + 99, lambda tags: tags * 0 - 1])
def test_tags_that_are_not_the_best_are_found_out(wrong):
    model = tagger_model()
    given, expected = next(random_comparisons(model, 30, seed=1))
    emissions, lengths = expected["emissions"], given["lengths"]
    right = onnx_session(build_tagger_onnx(model)).run(["tags"], given)[0]
    assert onnx_export._shortfall(model, right, emissions, lengths) < 1e-6
    is_real = np.arange(right.shape[1]) < lengths[:, None]
    assert onnx_export._shortfall(model, np.where(is_real, wrong(right), -1), emissions, lengths) > 0.01
    assert onnx_export._shortfall(model, np.where(is_real, right, 0), emissions, lengths) == np.inf


def test_the_command(joined, tmp_path, capsys):
    folder, model, texts = joined
    output = tmp_path / "model.onnx"
    assert main(["export", str(folder), "--onnx", str(output), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["largest_difference"] < 1e-5
    assert answer["inputs"] == ["ids", "lengths", "ngram_ids"]
    assert output.stat().st_size == answer["bytes"]
    found = onnx_session(str(output)).run(["probabilities"], text_inputs(model, texts[:5]))[0]
    np.testing.assert_allclose(found, bilstm.load(folder).predict_proba(texts[:5]), atol=1e-5)
    assert main(["export", str(folder), "--onnx", str(output)]) == 73
    assert "--overwrite" in capsys.readouterr().err
    assert main(["export", str(folder), "--onnx", str(output), "--overwrite", "--network-only"]) == 0
    assert "checked: 96 random sequences" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx"}


def test_the_command_needs_a_format(joined, capsys):
    assert main(["export", str(joined[0])]) == 2
    assert "--onnx" in capsys.readouterr().err


def test_a_graph_that_differs_is_not_written(monkeypatch, tmp_path):
    model = text_model(stack(Recurrent("lstm", SIZE, 4)))
    wrong = {**model.weights, "layers.3.bias": model.weights["layers.3.bias"] + np.float32(0.001)}
    other = TextModel(model.encoder, model.labels, model.model, wrong)
    monkeypatch.setattr(onnx_export, "build_text_onnx", lambda *_, **__: build_text_onnx(other))
    with pytest.raises(UsageError, match="differ by"):
        export_onnx(model, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path):
    model = text_model(stack())
    with pytest.raises(OutputError, match="there is no folder"):
        export_onnx(model, tmp_path / "no" / "m.onnx")
    with pytest.raises(OutputError, match="a folder stands there"):
        export_onnx(model, tmp_path)
    with pytest.raises(UsageError, match="nothing beside its network"):
        export_onnx(model, tmp_path / "m.onnx", network_only=True)


def test_gate_orders_by_hand():
    # one unit a gate: the number is the gate's place in torch's order
    lstm, gru = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[0.0], [1.0], [2.0]])
    assert from_torch_order(lstm, "lstm", "onnx").ravel().tolist() == [0, 3, 1, 2]  # i o f g
    assert from_torch_order(lstm, "lstm", "keras").ravel().tolist() == [0, 1, 2, 3]  # i f c o
    assert from_torch_order(gru, "gru", "onnx").ravel().tolist() == [1, 0, 2]  # z r h
    assert from_torch_order(gru, "gru", "keras").ravel().tolist() == [1, 0, 2]  # z r h
    for cell, orders in GATES.items():
        values = np.arange(len(orders["torch"]) * 6.0).reshape(-1, 2)
        for library in orders:
            assert np.array_equal(to_torch_order(from_torch_order(values, cell, library), cell, library), values)
