"""What `pip install bilstm` without extras can do: everything that uses a model. Each test blocks what extras bring."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from bilstm import TextClassifier
from bilstm.explanation.methods import METHODS
from bilstm.tasks.language_training import fit as fit_language_model
from bilstm.tasks.sequence_tagging import Config
from bilstm.tasks.tagging_training import fit_tagger
from serving_process import serving
from test_language_model import SMALL as SMALL_LANGUAGE
from test_sequence_tagging import SMALL, from_mapping, made_up, sentences_of

# What a server needs beside the core, with what comes along.
SERVING = ("fastapi", "uvicorn", "starlette", "httptools", "uvloop", "prometheus_client", "anyio", "h11")
# Everything that extras bring; none of it may be imported where only the core is installed.
EXTRAS = (
    *SERVING,
    "torch",
    "sklearn",
    "scipy",
    "joblib",
    "polars",
    "gensim",
    "tokenizers",
    "onnx",
    "onnxruntime",
    "h5py",
    "keras",
    "httpx",
    "requests",
    "pandas",
    "matplotlib",
    "networkx",
    "sympy",
    "jinja2",
    "yaml",
)

_PROGRAM = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from bilstm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def core(*arguments, text=None):
    """Run the command line where nothing but the core can be imported."""
    program = _PROGRAM.format(blocked=EXTRAS)
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
    with zipfile.ZipFile(room / "old.keras", "w") as file:
        file.writestr("config.json", "{}")
    (room / "data.parquet").write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    fit_language_model(texts, dataclasses.replace(SMALL_LANGUAGE, max_epochs=1)).model.save(room / "language")
    return room


PATHS = {
    "model", "tagger", "language", "data.csv", "data.conll", "data.parquet", "old.keras", "out.csv", "out.jsonl.gz",
    "out.parquet", "sample-data", "new", "new.keras", "small", "small-tagger",
}  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "model", "the end was good"],
        ["predict", "model", "the end was good", "--json"],
        ["predict", "model", "--file", "data.csv", "-o", "out.csv"],
        ["predict", "model", "--file", "data.csv", "-o", "out.jsonl.gz"],
        ["predict", "model", "the end was good", "--backend", "numpy"],
        ["evaluate", "model", "data.csv", "--json"],
        ["predict", "model", "--file", "data.csv"],
        ["evaluate", "model", "data.csv"],
        ["explain", "model", "the end was good", "--method", "occlusion"],
        ["explain", "model", "the end was good", "--method", "occlusion", "--backend", "numpy"],
        ["explain", "model", "the end was good", "--method", "occlusion", "--class", "all", "--json"],
        *(["explain", "model", "the end was good", "--method", name] for name in METHODS if name != "occlusion"),
        ["explain", "model", "the end was good", "--phrases"],
        ["explain", "model", "the end was good", "--html"],
        ["explain", "model", "--file", "data.csv", "--global"],
        ["explain", "model", "the end was good", "--training-file", "data.csv"],
        ["explain", "tagger", "Anna visits Rome .", "--span", "Anna"],
        ["predict", "tagger", "Anna visits Rome ."],
        ["predict", "tagger", "Anna visits Rome .", "--json", "--backend", "numpy"],
        ["predict", "tagger", "--file", "data.conll", "--format", "conll"],
        ["evaluate", "tagger", "data.conll"],
        ["evaluate", "tagger", "data.conll", "--json"],
        ["evaluate", "language", "data.csv", "--text", "text"],
        ["export", "model", "--int8", "small"],
        ["export", "tagger", "--int8", "small-tagger"],
        ["info"],
        ["sample", "sample-data"],
        ["--help"],
        ["train", "--help"],
    ],
    ids=" ".join,
)
def test_the_core_is_enough(room, arguments):
    done = core(*(room / part if part in PATHS else part for part in arguments))
    if arguments[0] == "explain" and "attention" in arguments:  # this model has none
        assert done.returncode == 2, done.stderr
        assert "this model has no attention" in done.stderr
        return
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
        (["train", "data.conll", "-o", "new"], "train"),
        (["pretrain", "data.csv", "-o", "new"], "train"),
        (["compare", "data.csv"], "train"),
        (["predict", "model", "--file", "data.csv", "-o", "out.parquet"], "tables"),
        (["predict", "model", "--file", "data.parquet"], "tables"),
        (["serve", "model"], "serve"),
        (["export", "model", "--onnx", "new"], "onnx"),
        (["export", "tagger", "--onnx", "new"], "onnx"),
        (["export", "model", "--keras", "new.keras"], "keras"),
        (["import", "old.keras", "-o", "new"], "keras"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_what_needs_an_extra_names_it(room, arguments, extra):
    done = core(*(room / part if part in PATHS else part for part in arguments))
    assert done.returncode == 69, done.stderr
    assert f"pip install 'bilstm[{extra}]'" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("bilstm: "), done.stderr
    assert "Traceback" not in done.stderr
    assert ".partial" not in done.stderr
    assert not (room / "new").exists()
    assert not (room / "out.parquet").exists()


def test_a_server_without_torch(room):
    """Only what the extra `serve` brings is there: the server answers, explains and stops."""
    program = ("-c", _PROGRAM.format(blocked=tuple(set(EXTRAS) - set(SERVING))))
    text = "the film was bad but the end was lovely"
    with serving(f"one={room / 'model'}", f"two={room / 'tagger'}", program=program) as served:
        (found,) = served.predict(text).json["predictions"]
        expected = json.loads(core("predict", room / "model", text, "--json").stdout)["predictions"][0]
        assert found["probabilities"] == expected["probabilities"]
        answer = served.call("POST", "/v1/explain", {"text": text, "method": "occlusion"})
        assert answer.status == 200, answer.body
        assert served.call("POST", "/v1/explain", {"text": text}).status == 200
        tagged = served.predict("Anna visits Rome .", model="two")
        assert tagged.status == 200, tagged.body
        question = {"text": "Anna visits Rome .", "model": "two", "span": "Anna"}
        assert served.call("POST", "/v1/explain", question).status == 200
        for path in ("/", "/docs", "/v1/models", "/metrics", "/healthz", "/readyz", "/openapi.json"):
            assert served.get(path).status == 200, path
        assert served.stop() == 0


def test_the_guard_can_fail():
    program = _PROGRAM.format(blocked=EXTRAS).replace("from bilstm.cli", "import torch\nfrom bilstm.cli")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "No module named 'torch'" in done.stderr


def test_every_dependency_of_an_extra_is_blocked():
    """The list above against pyproject.toml: a new dependency of an extra must be added to it."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    modules = {"scikit-learn": "sklearn", "prometheus-client": "prometheus_client"}
    for extra in ("train", "tables", "text", "serve", "onnx", "keras"):
        for requirement in project["optional-dependencies"][extra]:
            name = re.match(r"[A-Za-z0-9-]+", requirement)[0]
            assert modules.get(name, name) in EXTRAS
            assert (modules.get(name, name) in SERVING) == (extra == "serve")
