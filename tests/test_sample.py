"""The generated reviews: balanced, all different, and not to be judged by their words alone."""

import csv

import numpy as np
import pytest

from bilstm.data import sample
from bilstm.data.batching import epoch_batches
from bilstm.data.records import read_records
from bilstm.data.sample import sample_reviews, write_sample
from bilstm.data.vocabulary import TextEncoder
from bilstm.errors import OutputError


@pytest.fixture(scope="module")
def reviews():
    return sample_reviews(5000)


def test_balance_lengths_and_variety(reviews):
    texts, labels = reviews
    assert len(set(texts)) == 5000
    assert labels.count("positive") == 2500
    lengths = np.array([len(text.split()) for text in texts])
    assert lengths.min() == 1  # a few are as short as what people type to try a model
    assert 0.03 < (lengths < 12).mean() < 0.1
    assert 22 <= lengths.mean() <= 35
    assert lengths.max() <= 70
    assert len({word.strip(".,;!") for text in texts for word in text.lower().split()}) > 300
    # a review is one or more whole sentences
    assert all(text[0].isupper() and text[-1] in ".!" and "  " not in text and " ," not in text for text in texts)


def test_the_same_seed_gives_the_same_reviews(reviews):
    assert sample_reviews(5000) == reviews
    assert sample_reviews(50, seed=2) != sample_reviews(50, seed=1)


def test_counting_words_fails_visibly(reviews):
    """Linear models over words, pairs and triples stay far from what order makes possible."""
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear = pytest.importorskip("sklearn.linear_model")
    texts, labels = reviews
    for longest in (1, 2, 3):
        vectorizer = text.TfidfVectorizer(ngram_range=(1, longest))
        counted = vectorizer.fit_transform(texts[:4000])
        model = linear.LogisticRegression(C=10.0, max_iter=2000).fit(counted, labels[:4000])
        score = model.score(vectorizer.transform(texts[4000:]), labels[4000:])
        assert 0.58 < score < 0.76


def test_a_bilstm_does_not_fail(reviews):
    """Word order is all that is missing: a small BiLSTM learns the rest in seven epochs."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts, labels = reviews
    encoder = TextEncoder.build(texts[:4000])
    ids = encoder.encode(texts)
    targets = torch.tensor([label == "positive" for label in labels]).float()
    embedding = torch.nn.Embedding(len(encoder.vocabulary), 32)
    recurrent = torch.nn.LSTM(32, 32, bidirectional=True, batch_first=True)
    head = torch.nn.Linear(128, 1)
    parameters = [*embedding.parameters(), *recurrent.parameters(), *head.parameters()]

    def logits(rows):
        padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(ids[row]) for row in rows], batch_first=True)
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            embedding(padded), torch.from_numpy(ids.lengths[rows]), batch_first=True, enforce_sorted=False
        )
        states, (last, _) = recurrent(packed)
        states, _ = torch.nn.utils.rnn.pad_packed_sequence(states, batch_first=True, padding_value=-1.0)
        return head(torch.cat([states.amax(1), last[0], last[1]], dim=1))[:, 0]

    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for epoch in range(7):
        for rows in epoch_batches(ids.lengths[:4000], max_rows=32, max_steps=10_000, seed=0, epoch=epoch):
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(logits(rows), targets[rows]).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    with torch.no_grad():
        rows = np.arange(4000, 5000)
        score = ((logits(rows) > 0) == (targets[rows] > 0.5)).float().mean().item()
    torch.set_num_threads(threads)
    assert score > 0.95


@pytest.mark.parametrize("form", [form for form, _ in sample._FORMS], ids=lambda form: form.__name__)
def test_every_form_is_right_about_its_label(form):
    """Judge each review by a reader written for its form; only the decisive words are shared with the generator."""
    import random

    for number in range(200):
        chance = random.Random(number)
        sign = chance.choice((1, -1))
        core = form(sample._Writer(chance), sign)
        assert judged(form.__name__, core) == sign, core


def judged(form: str, text: str) -> int:
    """Work out the sign of a review from its words alone."""
    words = text.lower().replace(",", " ").replace(";", " ").split()
    signs = [(at, sign) for at, word in enumerate(words) for sign in (1, -1) if word in sample._ADJECTIVES[sign]]
    first, last = (signs[0][1], signs[-1][1]) if signs else (0, 0)

    def holds(phrases):
        return any(phrase in text for phrase in phrases)

    if form == "_plain":
        return first
    if form == "_hearsay_first":
        return last
    if form == "_hearsay_last":
        return first
    if form == "_denial":
        return -first if holds(sample._UNTRUE_THAT) else first
    if form == "_verdict_at_the_end":
        return -first if holds(sample._WRONG) else first
    if form == "_not_only":
        return first if "not only" in text else -first
    if form == "_change":
        return last if holds(sample._BUT) and not text.startswith(sample._LAST_TIME) else first
    if form == "_understatement":
        return last if last == -first else 0
    if form == "_in_a_word":
        turns = ("not ", "anything but ", "far from ", "never ")
        return -first if holds(turns) else first
    is_met = text.endswith(("and I did", "and that is what happened", "and I was not mistaken"))
    return 1 if ("to love" in text) == is_met else -1


def test_files_are_written_and_read_back(tmp_path):
    train, test = write_sample(tmp_path / "new" / "folder", train_rows=300, test_rows=100)
    parts = [read_records(path) for path in (train, test)]
    assert [len(part) for part in parts] == [300, 100]
    assert not set(parts[0].texts) & set(parts[1].texts)
    texts, labels = sample_reviews(400)
    assert parts[0].texts + parts[1].texts == texts
    assert parts[0].labels + parts[1].labels == labels
    with train.open(newline="") as file:
        assert next(csv.reader(file)) == ["text", "label"]
    assert sorted(path.name for path in train.parent.iterdir()) == ["test.csv", "train.csv"]
    assert write_sample(train.parent, 300, 100) == (train, test)  # the same content: nothing to do


def test_a_file_of_the_user_is_not_overwritten(tmp_path):
    (tmp_path / "train.csv").write_text("mine")
    with pytest.raises(OutputError, match=r"train\.csv: another file of this name"):
        write_sample(tmp_path)
    assert (tmp_path / "train.csv").read_text() == "mine"
    with pytest.raises(OutputError, match="cannot be made"):
        write_sample(tmp_path / "train.csv" / "folder")
