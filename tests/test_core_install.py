"""What `pip install bilstm` without extras can do: everything that uses a model. Each test blocks what extras bring."""

import json
import os
import subprocess
import sys

import pytest

from bilstm import TextClassifier
from bilstm.tasks.sequence_tagging import Config
from bilstm.tasks.tagging_training import fit_tagger
from test_sequence_tagging import SMALL, from_mapping, made_up, sentences_of

# Everything that an extra brings, with what comes along; none of it may be imported where only the core is installed.
EXTRAS = (
    "torch",
    "sklearn",
    "scipy",
    "polars",
    "gensim",
    "tokenizers",
    "onnx",
    "onnxruntime",
    "h5py",
    "fastapi",
    "uvicorn",
    "starlette",
    "httpx",
    "pandas",
    "matplotlib",
)

_PROGRAM = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {extras!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from bilstm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def core(*arguments, text=None):
    """Run the command line where nothing but the core can be imported."""
    program = _PROGRAM.format(extras=EXTRAS)
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        input=text,
        env={**os.environ, "NO_COLOR": "1"},
    )


@pytest.fixture(scope="module")
def room(tmp_path_factory, order_texts):
    room = tmp_path_factory.mktemp("core")
    texts, labels = order_texts
    settings = {"max_epochs": 2, "embedding_size": 8, "hidden_size": 8, "vectors": "random", "threads": 1}
    TextClassifier(**settings).fit(texts, labels).save(room / "model")
    (room / "data.csv").write_text(
        "text,label\n" + "".join(f"{t},{x}\n" for t, x in zip(texts[:40], labels, strict=False))
    )
    tokens, tags, intents = made_up(40, 0)
    config = from_mapping(Config, {**SMALL, "max_epochs": 1})
    fit_tagger(sentences_of(tokens, tags, intents), config).model.save(room / "tagger")
    lines = [
        "".join(f"{word} {tag}\n" for word, tag in zip(*pair, strict=True)) for pair in zip(tokens, tags, strict=True)
    ]
    (room / "data.conll").write_text("\n".join(lines))
    return room


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "model", "the end was good"],
        ["predict", "model", "the end was good", "--json"],
        ["predict", "model", "--file", "data.csv", "-o", "out.csv"],
        ["predict", "model", "--file", "data.csv", "-o", "out.jsonl.gz"],
        ["predict", "model", "the end was good", "--backend", "numpy"],
        ["evaluate", "model", "data.csv", "--json"],
        ["predict", "tagger", "Anna visits Rome ."],
        ["evaluate", "tagger", "data.conll"],
        ["info"],
        ["sample", "sample-data"],
        ["--help"],
        ["train", "--help"],
    ],
    ids=" ".join,
)
def test_the_core_is_enough(room, arguments):
    paths = {"model", "tagger", "data.csv", "data.conll", "out.csv", "out.jsonl.gz", "sample-data"}
    done = core(*(room / part if part in paths else part for part in arguments))
    assert done.returncode == 0, done.stderr
    assert done.stdout or (room / "out.csv").exists()


def test_the_answers_are_the_same_with_and_without_extras(room):
    import bilstm

    text = "the film was bad but the end was lovely"
    found = json.loads(core("predict", room / "model", text, "--json").stdout)["predictions"][0]
    model = bilstm.load(room / "model")
    assert found["prediction"] == model.predict([text])[0]
    assert list(found["probabilities"].values()) == model.predict_proba([text])[0].tolist()


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "data.csv", "-o", "new"], "train"),
        (["predict", "model", "--file", "data.csv", "-o", "out.parquet"], "tables"),
    ],
)
def test_what_needs_an_extra_names_it(room, arguments, extra):
    paths = {"model", "data.csv", "new", "out.parquet"}
    done = core(*(room / part if part in paths else part for part in arguments))
    assert done.returncode == 69, done.stderr
    assert f"pip install 'bilstm[{extra}]'" in done.stderr
    assert not (room / "new").exists()
    assert not (room / "out.parquet").exists()


def test_the_guard_can_fail():
    program = _PROGRAM.format(extras=EXTRAS).replace("from bilstm.cli", "import torch\nfrom bilstm.cli")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "No module named 'torch'" in done.stderr
