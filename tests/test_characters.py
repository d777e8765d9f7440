"""Word features: the encoder by hand, the torch face against plain torch modules, the runtime face against both."""

import json

import numpy as np
import pytest
import torch

from bilstm import description
from bilstm.data.ragged import Ragged
from bilstm.data.word_encoder import TRAITS, WordEncoder, case_of, shape_of, traits_of, word_key
from bilstm.errors import DataError, ModelFolderError
from bilstm.layers.characters import WordFeatures
from bilstm.layers.model import weights_of
from bilstm.layers.randomness import Randomness
from bilstm.runtime.word_features import WordFeatures as RuntimeFeatures

torch.set_num_threads(1)

SENTENCES = [["Rome", "is", "in", "Italy", "."], ["Rome", "rome", "1984"], [], ["x" * 100, "é"]]


@pytest.fixture
def encoder():
    return WordEncoder.build(SENTENCES, min_count=1, trait_min_count=1, max_characters=12)


CNN = (
    description.Embedding(30, 5),
    description.Convolution(5, 7, 3, "none"),
    description.Pooling(7, ("max",)),
)
BILSTM = (description.Embedding(30, 5), description.Recurrent("lstm", 5, 4), description.Pooling(8, ("last",)))


def features(encoder, characters, traits=True, words_size=6):
    vocabulary = (description.Embedding(len(encoder.words), words_size),)
    trait_layers = (description.Embedding(encoder.trait_rows, 3),) if traits else ()
    return vocabulary, characters, trait_layers


@pytest.mark.parametrize(
    ("word", "case", "shape"),
    [
        ("rome", "lower", "xx"),
        ("ROME", "UPPER", "XX"),
        ("Rome", "Title", "Xxx"),
        ("iPod", "miXed", "xXxx"),
        ("1984", "digits", "dd"),
        ("B2B", "some digits", "XdX"),
        ("你好吗", "uncased", "你好吗"),
        ("!!!", "symbols", "!!!"),
    ],
)
def test_case_and_shape_by_hand(word, case, shape):
    assert case_of(word) == case
    # only runs of one kind are shortened: three different characters are three runs, three equal ones are one
    assert shape_of(word) == (shape if word != "!!!" else "!!")


def test_traits_and_keys_by_hand():
    assert traits_of("Is") == ["Title", "Xx", "i", "is", "is", "is", "s", "is", "is", "is"]
    assert len(traits_of("a")) == len(TRAITS)
    assert word_key("A320-neo") == "a000-neo"


def test_encoder_by_hand(encoder):
    encoded = encoder.encode([["Rome", "rome", "Oslo"], [], ["Rome"]])
    assert encoded.lengths.tolist() == [3, 0, 1]
    # One word id for both spellings, two different words with different characters.
    rome = encoder.words.id_of["rome"]
    assert encoded.words.values.tolist() == [rome, rome, 0, rome]
    assert encoded.types.values.tolist() == [0, 1, 2, 0]
    ids = encoder.characters.id_of
    assert encoded.characters[0].tolist() == [ids["R"], ids["o"], ids["m"], ids["e"]]
    assert encoded.characters[2].tolist() == [0, ids["s"], ids["l"], ids["o"]]
    assert encoded.traits.shape == (3, len(TRAITS))
    starts = np.cumsum([0, *(len(vocabulary) for vocabulary in encoder.traits)])
    assert (encoded.traits >= starts[:-1]).all()
    assert (encoded.traits < starts[1:]).all()
    assert encoded.traits[2, TRAITS.index("prefix-4")] == starts[TRAITS.index("prefix-4")]  # "oslo" was never seen
    assert encoder.is_known("ROME")
    assert not encoder.is_known("Oslo")


def test_batches_hold_each_different_word_once(encoder):
    encoded = encoder.encode(SENTENCES)
    batch = encoded.batch([3, 1, 1])
    assert batch.words.lengths.tolist() == [2, 3, 3]
    assert len(batch.characters) == len(batch.traits) == 5
    spelled = {number: character for character, number in encoder.characters.id_of.items()}
    words = ["".join(spelled[number] for number in batch.characters[place]) for place in batch.place]
    assert words == ["x" * 12, "é", "Rome", "rome", "1984", "Rome", "rome", "1984"]
    np.testing.assert_array_equal(batch.words.values, encoded.words.select([3, 1, 1]).values)


def test_long_words_keep_both_ends():
    encoder = WordEncoder.build([["abcdefgh"]], min_count=1, max_characters=5)
    spelled = {number: character for character, number in encoder.characters.id_of.items()}
    assert "".join(spelled[number] for number in encoder.encode([["abcdefgh"]]).characters[0]) == "abcgh"


def test_encoder_is_written_and_read_back(encoder):
    again = WordEncoder.from_json(encoder.to_json())
    assert again == encoder
    for text in ["", "[]", '{"kind": "words"}', encoder.to_json().replace('"words"', '"ids"', 1)]:
        with pytest.raises(ModelFolderError):
            WordEncoder.from_json(text)
    broken = json.loads(encoder.to_json())
    broken["words"][1] = 7
    with pytest.raises(ModelFolderError, match="entries must be texts"):
        WordEncoder.from_json(json.dumps(broken))
    with pytest.raises(DataError, match="no token"):
        WordEncoder.build([[], []])


def torch_characters(kind, weights, ids):
    """The same character features of one word with torch's own modules."""
    vectors = weights["characters.layers.0.weight"][ids]
    if kind == "cnn":
        convolution = torch.nn.Conv1d(5, 7, 3, padding="same")
        convolution.load_state_dict({name: weights[f"characters.layers.1.{name}"] for name in ("weight", "bias")})
        return convolution(vectors.T[None])[0].max(dim=1).values
    lstm = torch.nn.LSTM(5, 4, bidirectional=True)
    lstm.load_state_dict({name: weights[f"characters.layers.1.{name}"] for name in lstm.state_dict()})
    _, (h_n, _) = lstm(vectors[:, None])
    return h_n[:, 0].flatten()


@pytest.mark.parametrize("kind", ["cnn", "bilstm"])
def test_features_equal_plain_torch(encoder, kind):
    stacks = features(encoder, CNN if kind == "cnn" else BILSTM)
    module = WordFeatures(*stacks, Randomness(3)).eval()
    weights = dict(module.state_dict())
    encoded = encoder.encode(SENTENCES)
    batch = encoded.batch([0, 3, 2, 1])
    found = module(batch)
    assert found.offsets.tolist() == [0, 5, 7, 7, 10]
    rows = []
    for step, word_id in enumerate(batch.words.values):
        ids = torch.from_numpy(batch.characters[int(batch.place[step])])
        traits = weights["traits.layers.0.weight"][torch.from_numpy(batch.traits[batch.place[step]])]
        parts = [weights["words.layers.0.weight"][word_id], torch_characters(kind, weights, ids), traits.flatten()]
        rows.append(torch.cat(parts))
    torch.testing.assert_close(found.values, torch.stack(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stack", ["cnn", "bilstm", "none"])
@pytest.mark.parametrize("traits", [True, False])
def test_runtime_gives_the_same(encoder, stack, traits):
    stacks = features(encoder, {"cnn": CNN, "bilstm": BILSTM, "none": ()}[stack], traits)
    module = WordFeatures(*stacks, Randomness(4)).eval()
    runtime = RuntimeFeatures(*stacks, weights_of(module))
    encoded = encoder.encode([*SENTENCES, ["unseen", "ŵörd"]])
    for rows in ([0, 1, 2, 3, 4], [2], [4]):
        batch = encoded.batch(rows)
        with torch.no_grad():
            expected = module(batch)
        found = runtime.run(batch)
        np.testing.assert_array_equal(found.offsets, batch.words.offsets)
        np.testing.assert_allclose(found.values, expected.values.numpy(), rtol=1e-5, atol=1e-6)


def test_every_weight_gets_a_gradient(encoder):
    module = WordFeatures(*features(encoder, CNN), Randomness(5)).train()
    module(encoder.encode(SENTENCES).batch([0, 1])).values.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_features_do_not_depend_on_batch_mates(encoder):
    module = WordFeatures(*features(encoder, BILSTM), Randomness(6)).eval()
    encoded = encoder.encode(SENTENCES)
    whole = module(encoded.batch([0, 1, 2, 3]))
    for row in range(4):
        alone = module(encoded.batch([row]))
        torch.testing.assert_close(alone.values, Ragged(whole.values, whole.offsets)[row], rtol=1e-5, atol=1e-6)
