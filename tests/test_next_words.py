"""What each step must predict, against a loop over whole texts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm.data.next_words import Pieces
from bilstm.data.ragged import Ragged
from bilstm.errors import UsageError

BOUNDARY = 50
texts = st.lists(st.lists(st.integers(0, BOUNDARY - 1), max_size=12), min_size=1, max_size=6)


def predictions(words):
    """Every prediction of a text: forwards (context -> word), then backwards, as sorted lists of pairs."""
    forward = [(tuple(words[:at]), word) for at, word in enumerate([*words, BOUNDARY])]
    turned = words[::-1]
    backward = [(tuple(turned[:at][::-1]), word) for at, word in enumerate([*turned, BOUNDARY])]
    return forward, backward


@settings(max_examples=60, deadline=None)
@given(texts, st.integers(1, 6), st.randoms())
def test_pieces_predict_every_word_of_every_text_once_a_direction(words, longest, chance):
    pieces = Pieces.of(Ragged.of(words), BOUNDARY, longest)
    rows = list(range(len(pieces)))
    chance.shuffle(rows)
    batch = pieces.select(np.array(rows, dtype=np.int64))
    assert max(pieces.ids.lengths, default=1) <= longest
    wanted_forward = sorted(word for text in words if text for _, word in predictions(text)[0])
    wanted_backward = sorted(word for text in words if text for _, word in predictions(text)[1])
    assert sorted([*batch.forward_targets, *batch.first_words]) == wanted_forward
    assert sorted([*batch.backward_targets, *batch.last_words]) == wanted_backward
    assert len(batch.targets) == len(wanted_forward) + len(wanted_backward)


@settings(max_examples=60, deadline=None)
@given(texts)
def test_a_step_predicts_the_word_beside_it(words):
    pieces = Pieces.of(Ragged.of(words), BOUNDARY)
    kept = [text for text in words if text]
    assert len(pieces) == len(kept)
    for row, text in enumerate(kept):
        batch = pieces.select(np.array([row]))
        forward, backward = predictions(text)
        assert list(batch.forward_targets) == [word for _, word in forward[1:]]
        assert list(batch.backward_targets[::-1]) == [word for _, word in backward[1:]]
        assert list(batch.first_words) == [forward[0][1]]
        assert list(batch.last_words) == [backward[0][1]]


def test_a_cut_text_goes_on_in_the_next_piece():
    pieces = Pieces.of(Ragged.of([[1, 2, 3, 4, 5], [6]]), BOUNDARY, longest=2)
    assert pieces.ids.lengths.tolist() == [1, 2, 2, 1]
    assert pieces.begins.tolist() == [True, False, False, True]
    assert pieces.ends.tolist() == [False, False, True, True]
    assert pieces.forward_targets.tolist() == [2, 3, 4, 5, BOUNDARY, BOUNDARY]
    assert pieces.backward_targets.tolist() == [BOUNDARY, 1, 2, 3, 4, BOUNDARY]


def test_a_piece_has_a_step():
    with pytest.raises(UsageError, match="at least 1 step, got 0"):
        Pieces.of(Ragged.of([[1]]), BOUNDARY, longest=0)
