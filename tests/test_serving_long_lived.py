import gc
import weakref

import pytest

from bilstm.serving.long_lived import release, set_aside


class Model:
    """An object in a circle of references, as a model with its caches may be."""

    def __init__(self):
        self.itself = self


@pytest.fixture(autouse=True)
def nothing_stays_set_aside():
    yield
    release()
    assert gc.get_freeze_count() == 0


def test_what_is_set_aside_is_not_looked_at():
    model = Model()
    assert any(one is model for one in gc.get_objects())
    set_aside()
    assert gc.get_freeze_count() > 0
    assert not any(one is model for one in gc.get_objects())


def test_a_replaced_model_goes_when_the_next_one_is_set_aside():
    model = Model()
    gone = weakref.ref(model)
    set_aside()
    del model
    gc.collect()
    assert gone() is not None  # garbage that no collection looks at
    set_aside()
    assert gone() is None
