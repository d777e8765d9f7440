"""Small models made without training or torch: random recurrent layers under a readout fitted by least squares."""

import dataclasses

import numpy as np

from bilstm import description
from bilstm.data.labels import LabelSet
from bilstm.data.tags import allowed_tags
from bilstm.data.vocabulary import TextEncoder
from bilstm.data.word_encoder import WordEncoder
from bilstm.runtime.model import Model
from bilstm.runtime.tagger import Tagger
from bilstm.tasks.sequence_tagging import Config, TaggerModel, describe_tagger
from bilstm.tasks.text_classification import TextModel

PRAISE, BLAME = ["good", "fine", "lovely"], ["bad", "poor", "dull"]
REPORT = "<!DOCTYPE html><html><head><title>Report</title></head><body><h1>Report of a test</h1></body></html>"
CARD = "---\nlibrary_name: bilstm\n---\n# A card\n\nText with `code`.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


def review_texts(count, seed=0):
    """Texts that praise or blame."""
    random = np.random.default_rng(seed)
    labels = ["positive" if random.random() < 0.5 else "negative" for _ in range(count)]
    words = {"positive": PRAISE, "negative": BLAME}
    texts = [
        " ".join(["the", random.choice(["film", "book", "play"]), "was", *random.choice(words[label], 2)])
        for label in labels
    ]
    return texts, labels


def _random_weights(shapes, seed):
    random = np.random.default_rng(seed)
    return {name: random.normal(0, 0.35, shape).astype(np.float32) for name, shape in shapes.items()}


def _readout(features, targets):
    wide = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    # a little ridge keeps the weights small where features say the same
    solution = np.linalg.solve(wide.T @ wide + 1e-2 * np.eye(wide.shape[1]), wide.T @ targets)
    return solution[:-1].T.astype(np.float32), solution[-1].astype(np.float32)


def classifier(texts, raw_labels, kind="auto", seed=1, size=8, separator=None, scale=6.0):
    """A text classifier that fits its texts."""
    encoder, labels = TextEncoder.build(texts), LabelSet.build(raw_labels, kind, separator)
    single = labels.kind in ("binary", "regression")
    outputs = 1 if single else len(labels.names)
    layers = (
        description.Embedding(len(encoder.vocabulary), size),
        description.Recurrent("lstm", size, size),
        description.Pooling(2 * size, ("max", "mean")),
        description.Linear(4 * size, outputs),
    )
    weights = _random_weights(description.weight_shapes(layers), seed)
    below = {name: weight for name, weight in weights.items() if not name.startswith("layers.3.")}
    pooled = np.asarray(Model(layers[:3], below, threads=1).run(encoder.encode(texts)), dtype=np.float64)
    targets = np.asarray(labels.encode(raw_labels), dtype=np.float64)
    if labels.kind == "multiclass":
        targets = np.eye(outputs)[targets.astype(int)]
    targets = targets.reshape(len(texts), outputs)
    if labels.kind != "regression":
        targets = scale * (targets - 0.5)
    weights["layers.3.weight"], weights["layers.3.bias"] = _readout(pooled, targets)
    return TextModel(encoder, labels, Model(layers, weights, threads=1), weights)


def reviews(seed=1):
    """A classifier of two classes."""
    return classifier(*review_texts(120), seed=seed)


NAMES, PLACES = ["Anna", "Bo", "Carla", "Dmitri"], ["Rome", "Lima", "Oslo"]


def tagger(seed=1):
    """A tagger of persons and places with an intent."""
    random = np.random.default_rng(0)
    sentences, rows, intents = [], [], []
    for _ in range(80):
        verb = str(random.choice(["visits", "leaves"]))
        sentences.append([str(random.choice(NAMES)), verb, str(random.choice(PLACES)), "today", "."])
        rows.append(["S-PER", "O", "S-LOC", "O", "O"])
        intents.append(verb)
    config = dataclasses.replace(Config(), characters="none", trait_size=None, word_size=8, hidden_size=8)
    encoder = WordEncoder.build(sentences, min_count=1)
    kinds = ["B", "E", "I", "S"]
    tags = ("O", *(f"{kind}-{name}" for name in ("LOC", "PER") for kind in kinds))
    names = ("leaves", "visits")
    layers = describe_tagger(config, encoder, len(tags), len(names))
    weights = {}
    for number, (prefix, part) in enumerate(
        [
            ("features.words", layers.words),
            ("encoder", layers.encoder),
            ("tags", layers.tags),
            ("intent", layers.intent),
        ]
    ):
        shapes = description.weight_shapes(part)
        weights |= {f"{prefix}.{name}": array for name, array in _random_weights(shapes, seed + number).items()}
    weights |= {
        "crf.transitions": np.zeros((len(tags), len(tags)), np.float32),
        "crf.start": np.zeros(len(tags), np.float32),
        "crf.end": np.zeros(len(tags), np.float32),
    }
    allowed = allowed_tags(tags, "IOBES")
    model = Tagger(layers, weights, allowed, threads=1)
    encoded = encoder.encode(sentences)
    hidden = model._encoder.run(model._features.run(encoded.batch(np.arange(len(sentences)))))
    targets = np.full((len(hidden.values), len(tags)), -4.0)
    targets[np.arange(len(targets)), [tags.index(tag) for row in rows for tag in row]] = 4.0
    weights["tags.layers.0.weight"], weights["tags.layers.0.bias"] = _readout(hidden.values.astype(np.float64), targets)
    pooled = np.asarray(Model(layers.intent[:1], {}, threads=1).run(hidden), dtype=np.float64)
    wanted = 8.0 * (np.eye(2)[[names.index(intent) for intent in intents]] - 0.5)
    weights["intent.layers.1.weight"], weights["intent.layers.1.bias"] = _readout(pooled, wanted)
    return TaggerModel(encoder, tags, "IOBES", "IOB2", names, Tagger(layers, weights, allowed, threads=1), weights)


def save(model, folder, overwrite=False):
    """Write a model folder with card and report; return its path."""
    return model.save(folder, files={"README.md": CARD, "report.html": REPORT}, overwrite=overwrite)
