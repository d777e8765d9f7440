"""Whole models as ONNX: what goes in, what comes out, and the comparison that comes before the file.

Text classification: `ids` and `lengths` in, `logits` and `probabilities` (for numbers: `values`) out. Linear n-gram
models that are joined to the network stand in the graph too and read `ngram_ids`. Tagging: word, character and trait
ids in, the best `tags` out, with the `emissions` and the weights of the CRF that they follow from.
Imports numpy, the task models; onnx and ONNX Runtime inside the functions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.data.word_encoder import WordBatch
from bilstm.export.onnx_graph import GraphBuilder, onnx_library
from bilstm.export.onnx_viterbi import Chain, add_best_tags
from bilstm.runtime.ngram_linear import LinearHead, NgramLinear
from bilstm.runtime.tagger import TaggerLayers
from bilstm.runtime.word_features import weights_under
from bilstm.tasks.sequence_tagging import TaggerModel
from bilstm.tasks.text_classification import TextModel, Texts, words_of

__all__ = ["build_tagger_onnx", "build_text_onnx", "padded", "tagger_inputs", "text_inputs"]


# ---- inputs ----------------------------------------------------------------------------------------------------------


def padded(batch: Ragged, fill: int = 0) -> np.ndarray:
    """Write a batch of ids as a rectangle (batch, longest, at least 1), int64."""
    lengths = np.asarray(batch.lengths)
    result = np.full((len(lengths), max(int(lengths.max(initial=0)), 1)), fill, dtype=np.int64)
    result[np.arange(result.shape[1]) < lengths[:, None]] = batch.values
    return result


def text_inputs(model: TextModel, texts: Texts, *, network_only: bool = False) -> dict[str, np.ndarray]:
    """Encode texts as an exported text classifier wants them."""
    ids = model.encoder.encode(texts)  # type: ignore[arg-type]
    given = {"ids": padded(ids), "lengths": np.asarray(ids.lengths, dtype=np.int64)}
    if model.joined is not None and not network_only:
        words, _ = model.joined.linear.index.to_arrays(model.joined.linear.index.max_order)
        find = {word: number for number, word in enumerate(words)}
        rows = [[find.get(word, -1) for word in row] for row in words_of(texts)]
        given["ngram_ids"] = padded(Ragged.of(rows), fill=-1)
    return given


def tagger_inputs(batch: WordBatch) -> dict[str, np.ndarray]:
    """Write an encoded batch of sentences as an exported tagger wants it."""
    lengths = np.asarray(batch.words.lengths, dtype=np.int64)
    return {
        "words": padded(batch.words),
        "lengths": lengths,
        "place": padded(batch.words.with_values(batch.place)),
        "characters": padded(batch.characters),
        "character_lengths": np.asarray(batch.characters.lengths, dtype=np.int64),
        "traits": batch.traits,
    }


# ---- text classification ---------------------------------------------------------------------------------------------


def build_text_onnx(model: TextModel, *, network_only: bool = False) -> bytes:
    """Return the ONNX file of a text classifier.

    Parameters
    ----------
    model : TextModel
    network_only : bool
        Leave linear n-gram models out.
    """
    tensor = onnx_library().TensorProto
    info = onnx_library().helper.make_tensor_value_info
    graph = GraphBuilder()
    inputs = [info("ids", tensor.INT64, ["batch", "time"]), info("lengths", tensor.INT64, ["batch"])]
    steps = graph.add("Transpose", "ids", perm=[1, 0])
    logits = graph.stack(model.model.description, model.weights, steps, "lengths", "")
    metadata = {"task": "text-classification", "encoder": model.encoder.to_json()}
    if model.joined is not None and not network_only:
        inputs.append(info("ngram_ids", tensor.INT64, ["batch", "words"]))
        logits = _joined(graph, model, logits)
        words, _ = model.joined.linear.index.to_arrays(model.joined.linear.index.max_order)
        metadata["ngram_words"] = json.dumps(words, ensure_ascii=False)
    metadata["labels"] = json.dumps(model.labels.to_config(), ensure_ascii=False)
    graph.add("Identity", logits, outputs=["logits"])
    width = getattr(model.model.description[-1], "output_size", None)
    outputs = [info("logits", tensor.FLOAT, ["batch", width])]
    if model.labels.kind == "regression":
        _affine(graph, "logits", model.scale, model.shift, "values")
        outputs.append(info("values", tensor.FLOAT, ["batch", 1]))
    else:
        _probabilities(graph, model, "logits")
        outputs.append(info("probabilities", tensor.FLOAT, ["batch", len(model.labels.names)]))
    return graph.model(inputs, outputs, "bilstm_text_classifier", metadata)


def _affine(graph: GraphBuilder, value: str, factor: float, shift: float, output: str) -> None:
    scaled = graph.add("Mul", value, graph.constant(factor))
    graph.add("Add", scaled, graph.constant(shift), outputs=[output])


def _probabilities(graph: GraphBuilder, model: TextModel, logits: str) -> None:
    cooled = graph.add("Mul", logits, graph.constant(1.0 / model.temperature))
    if model.labels.kind == "multiclass":
        graph.add("Softmax", cooled, outputs=["probabilities"], axis=1)
        return
    if model.labels.kind == "multilabel":
        graph.add("Sigmoid", cooled, outputs=["probabilities"])
        return
    both = [graph.add("Sigmoid", graph.add("Neg", cooled)), graph.add("Sigmoid", cooled)]
    graph.add("Concat", *both, outputs=["probabilities"], axis=1)


def _joined(graph: GraphBuilder, model: TextModel, logits: str) -> str:
    """Add the margins of the linear models to the network's logits."""
    assert model.joined is not None
    linear, joining = model.joined.linear, model.joined.joining
    counts = _ngram_counts(graph, linear)
    result = graph.add("Mul", logits, graph.constant(joining.network))
    for number, (head, weight) in enumerate(zip(linear.heads, joining.linear, strict=True)):
        margins = _margins(graph, head, counts, sum(linear.index.sizes), f"linear.{number}.")
        result = graph.add("Add", result, graph.add("Mul", margins, graph.constant(weight)))
    return graph.add("Add", result, graph.constant(joining.shift))


def _ngram_counts(graph: GraphBuilder, linear: NgramLinear) -> str:
    """Count each learned n-gram: (batch, n-grams) float; -1 is the word that is in none."""
    words, keys = linear.index.to_arrays(linear.index.max_order)
    grams = np.arange(len(words), dtype=np.int64)[:, None]
    pool, starts = [grams.reshape(-1)], [0]
    for order_keys in keys:
        starts.append(starts[-1] + len(pool[-1]))
        before, last = np.divmod(order_keys, len(words))
        grams = np.concatenate([grams[before], last[:, None]], axis=1)
        pool.append(grams.reshape(-1))
    return graph.add(
        "TfIdfVectorizer",
        "ngram_ids",
        mode="TF",
        min_gram_length=1,
        max_gram_length=len(pool),
        max_skip_count=0,
        ngram_counts=starts,
        ngram_indexes=list(range(sum(linear.index.sizes))),
        pool_int64s=np.concatenate(pool).tolist(),
    )


def _margins(graph: GraphBuilder, head: LinearHead, counts: str, size: int, at: str) -> str:
    """Return margins (batch, outputs) of one linear model."""
    features = head.weights.shape[1]
    if features < size:
        ends = [graph.constant([number], np.int64) for number in (0, features, 1)]
        counts = graph.add("Slice", counts, *ends)
    values = graph.add("Min", counts, graph.constant(1.0))
    if head.inverse_frequency is not None:
        level = graph.add("Log", graph.add("Max", counts, graph.constant(1.0)))
        weighted = graph.add("Mul", values, graph.add("Add", level, graph.constant(1.0)))
        values = graph.add("Mul", weighted, graph.constant(head.inverse_frequency, name=f"{at}inverse_frequency"))
        length = graph.add("ReduceL2", values, axes=[1], keepdims=1)
        values = graph.add("Div", values, graph.add("Max", length, graph.constant(1e-30)))
    product = graph.add("MatMul", values, graph.constant(head.weights.T, name=f"{at}weights"))
    return graph.add("Add", product, graph.constant(head.intercepts, name=f"{at}intercepts"))


# ---- tagging ---------------------------------------------------------------------------------------------------------


def build_tagger_onnx(model: TaggerModel) -> bytes:
    """Return the ONNX file of a tagger: the best tags, and the scores of tags and intents behind them."""
    tensor = onnx_library().TensorProto
    info = onnx_library().helper.make_tensor_value_info
    graph, layers = GraphBuilder(), model.tagger.layers
    inputs = [
        info("words", tensor.INT64, ["batch", "time"]),
        info("lengths", tensor.INT64, ["batch"]),
        info("place", tensor.INT64, ["batch", "time"]),
    ]
    place = graph.add("Transpose", "place", perm=[1, 0])
    words = graph.add("Transpose", "words", perm=[1, 0])
    parts = [_part(graph, model, "features.words", layers.words, words, "lengths")]
    if layers.characters:
        inputs.append(info("characters", tensor.INT64, ["different", "letters"]))
        inputs.append(info("character_lengths", tensor.INT64, ["different"]))
        letters = graph.add("Transpose", "characters", perm=[1, 0])
        found = _part(graph, model, "features.characters", layers.characters, letters, "character_lengths")
        parts.append(graph.add("Gather", found, place))  # (time, batch, features)
    if layers.traits:
        kinds = len(model.encoder.traits)
        inputs.append(info("traits", tensor.INT64, ["different", kinds]))
        table = graph.constant(model.weights[_trait_table(layers)], name=_trait_table(layers))
        entries = graph.add("Gather", table, graph.add("Gather", "traits", place))  # (time, batch, kinds, size)
        parts.append(graph.add("Reshape", entries, graph.constant([0, 0, -1], np.int64)))
    features = parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=2)
    hidden = _part(graph, model, "encoder", layers.encoder, features, "lengths")
    scores = _part(graph, model, "tags", layers.tags, hidden, "lengths")
    mask = graph.mask_of("lengths", scores)
    real = graph.add("Mul", scores, mask)  # zero beyond the end, whatever stands there
    graph.add("Transpose", real, outputs=["emissions"], perm=[1, 0, 2])
    chain = None
    if layers.crf:
        values = (np.asarray(getattr(model.tagger.crf, name), dtype=np.float32) for name in Chain._fields)
        named = zip(Chain._fields, values, strict=True)
        chain = Chain(*(graph.constant(array, name=f"crf.{name}") for name, array in named))
    best = add_best_tags(graph, real, mask, len(model.tags), chain)
    graph.add("Transpose", best, outputs=["tags"], perm=[1, 0])
    outputs = [info("tags", tensor.INT64, ["batch", "time"])]
    outputs.append(info("emissions", tensor.FLOAT, ["batch", "time", len(model.tags)]))
    if layers.intent:
        graph.add("Identity", _part(graph, model, "intent", layers.intent, hidden, "lengths"), outputs=["intents"])
        outputs.append(info("intents", tensor.FLOAT, ["batch", len(model.intents)]))
    if chain is not None:
        for name, constant in chain._asdict().items():
            graph.add("Identity", constant, outputs=[f"crf_{name}"])
            outputs.append(info(f"crf_{name}", tensor.FLOAT, list(graph.weights[constant].shape)))
    metadata: Mapping[str, str] = {
        "task": "sequence-tagging",
        "encoder": model.encoder.to_json(),
        "tags": json.dumps(list(model.tags), ensure_ascii=False),
        "scheme": model.inner_scheme,
        "intents": json.dumps(list(model.intents), ensure_ascii=False),
        "lowercase": json.dumps(model.lowercase),
        "intent_temperature": json.dumps(model.intent_temperature),
    }
    return graph.model(inputs, outputs, "bilstm_tagger", metadata)


def _trait_table(layers: TaggerLayers) -> str:
    """Name of the one embedding that holds the entries of all traits; word dropout may stand before it."""
    number = next(at for at, layer in enumerate(layers.traits) if isinstance(layer, description.Embedding))
    return f"features.traits.layers.{number}.weight"


def _part(graph: GraphBuilder, model: TaggerModel, name: str, layers: Any, flow: str, lengths: str) -> str:
    return graph.stack(layers, weights_under(model.weights, name), flow, lengths, f"{name}.")
