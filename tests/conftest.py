"""Shared by all tests: one OpenMP thread, so that a busy machine does not slow them down, and small trained models."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest

# A model that learns the texts of `order_texts` in a second.
SMALL = {
    "max_epochs": 6,
    "batch_size": 16,
    "embedding_size": 12,
    "hidden_size": 12,
    "learning_rate": 0.02,
    "vectors": "random",
    "adversarial_norm": None,
    "average_decay": None,
    "word_dropout": 0.0,
    "embedding_dropout": 0.0,
    "dropout": 0.0,
    "patience": None,
    "threads": 1,
}


@pytest.fixture
def small_settings():
    """Settings of a small, fast model; a new dict each time."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def order_texts():
    """Texts and labels in which only the order of words decides: the last clause counts."""
    import numpy as np

    random = np.random.default_rng(3)
    praise, blame = ["good", "fine", "lovely"], ["bad", "poor", "dull"]
    texts, labels = [], []
    for _ in range(200):
        first, second = (praise, blame) if random.random() < 0.5 else (blame, praise)
        texts.append(f"the film was {random.choice(first)} but the end was {random.choice(second)}")
        labels.append("pos" if second is praise else "neg")
    return texts, labels


@pytest.fixture(autouse=True)
def denormals_stay_as_they_were():
    """Fail a test after which this thread flushes denormals: training may, but must put the switch back."""
    yield
    smallest = float.fromhex("0x1p-1074")
    is_flushing = smallest * float(len("x")) == 0.0  # not a constant: computed here and now
    assert not is_flushing, "this thread flushes denormals now"
