"""The scikit-learn faces: conventions by scikit-learn's own checks, and what users do with estimators.

The checks feed tables of numbers. An adapter in this file writes each row as a text, one word a feature, so that every
check runs on the real estimator; what cannot apply to texts is listed with its reason.
"""

import copy
import dataclasses
import inspect
import pickle

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator, check_no_attributes_set_in_init

import bilstm
from bilstm import TextClassifier, TextRegressor
from bilstm.errors import UsageError
from bilstm.tasks.text_classification import Config

TINY = {
    "max_epochs": 2,
    "batch_size": 16,
    "embedding_size": 8,
    "hidden_size": 4,
    "learning_rate": 0.02,
    "vectors": "random",
    "adversarial_norm": None,
    "average_decay": None,
    "patience": None,
    "word_dropout": 0.0,
    "embedding_dropout": 0.0,
    "dropout": 0.0,
    "join_linear": False,
    "threads": 1,
}


def as_texts(X):
    """Write the rows of a table of numbers as texts; leave anything else as it is."""
    if hasattr(X, "toarray") or np.asarray(X).ndim != 2:
        return X
    return [
        " ".join(f"{chr(97 + i)}{round(float(np.real(v)) * 2)}" for i, v in enumerate(row)) for row in np.asarray(X)
    ]


class OverNumbers:
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.string = tags.input_tags.one_d_array = False
        if tags.regressor_tags is not None:
            tags.regressor_tags.poor_score = True  # the texts are rounded numbers
        return tags

    def fit(self, X, y, **options):
        return super().fit(as_texts(X), y, **options)

    def predict(self, X):
        return super().predict(as_texts(X))


class ClassifierOverNumbers(OverNumbers, TextClassifier):
    def predict_proba(self, X):
        return super().predict_proba(as_texts(X))


class RegressorOverNumbers(OverNumbers, TextRegressor):
    pass


NO_FEATURES = "a text has words, not a number of features: texts of any length may be predicted"
EXCLUDED = {
    "check_n_features_in": NO_FEATURES,
    "check_n_features_in_after_fitting": NO_FEATURES,
    "check_classifiers_train": NO_FEATURES + " (the check asks for an error at its end)",
    "check_estimators_empty_data_messages": "asks for the words '0 feature(s)'; ours says that there is no word",
    "check_estimators_nan_inf": "texts hold no NaN; that of targets is checked below",
    "check_complex_data": "texts are not complex numbers",
    "check_fit2d_predict1d": "a list of numbers is refused as 'not a text', not with advice to reshape",
}
SKIPPED = {
    "check_array_api_input": "needs the environment variable SCIPY_ARRAY_API",
    "check_classifier_data_not_an_array": "needs pandas",
    "check_regressor_data_not_an_array": "needs pandas",
    "check_classifiers_multilabel_output_format_decision_function": "there is no decision_function",
}


@pytest.mark.parametrize("estimator", [ClassifierOverNumbers(**TINY), RegressorOverNumbers(**TINY)])
@pytest.mark.filterwarnings("ignore")  # the checks warn about themselves
def test_checks_of_scikit_learn(estimator):
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert failed.keys() <= EXCLUDED.keys(), {name: failed[name] for name in failed.keys() - EXCLUDED.keys()}
    assert {result["check_name"] for result in results if result["status"] == "skipped"} <= SKIPPED.keys()
    assert sum(result["status"] == "passed" for result in results) >= 35
    of_one_kind = {"check_classifiers_train", "check_complex_data"}
    assert EXCLUDED.keys() - failed.keys() - of_one_kind == set(), "these pass, take them off the list"


def test_the_checks_find_a_planted_fault():
    class Forgetful(ClassifierOverNumbers):
        def __init__(self, **options):
            super().__init__(**options)
            self.further = 3

    with pytest.raises(AssertionError):
        check_no_attributes_set_in_init("Forgetful", Forgetful(**TINY))
    check_no_attributes_set_in_init("ClassifierOverNumbers", ClassifierOverNumbers(**TINY))


@pytest.mark.parametrize("kind", [TextClassifier, TextRegressor])
def test_parameters_are_the_settings(kind):
    parameters = dict(inspect.signature(kind.__init__).parameters)
    del parameters["self"], parameters["verbose"]
    expected = {f.name.replace("seed", "random_state", 1) if f.name == "seed" else f.name: f.default
                for f in dataclasses.fields(Config)}  # fmt: skip
    assert {name: parameter.default for name, parameter in parameters.items()} == expected
    assert kind()._config() == Config()


@pytest.fixture(scope="module")
def fitted(order_texts):
    texts, labels = order_texts
    settings = {**TINY, "max_epochs": 8, "embedding_size": 12, "hidden_size": 12}
    return TextClassifier(**settings).fit(texts[:160], labels[:160])


def test_learns_the_order_of_words(fitted, order_texts):
    texts, labels = order_texts
    assert fitted.score(texts[160:], labels[160:]) >= 0.95
    assert list(fitted.classes_) == ["neg", "pos"]
    probabilities = fitted.predict_proba(texts[:5])
    assert probabilities.shape == (5, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert fitted.best_epoch_ >= 1
    assert len(fitted.history_) == 8
    assert fitted.dev_metrics_["rows"] == 16


def test_before_fit():
    for call in (lambda e: e.predict(["a"]), lambda e: e.predict_proba(["a"]), lambda e: e.save("nowhere")):
        with pytest.raises(NotFittedError, match="not fitted"):
            call(TextClassifier())


def test_clone_and_parameters(fitted):
    copied = clone(fitted)
    assert copied.get_params() == fitted.get_params()
    assert not hasattr(copied, "model_")
    assert TextClassifier().set_params(hidden_size=3).hidden_size == 3
    with pytest.raises(ValueError, match="hidden_sizes"):
        TextClassifier().set_params(hidden_sizes=3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be a whole number at least 1"),
        ({"cell": "transformer"}, "cell must be one of lstm, gru, rnn, none"),
        ({"pooling": ("median",)}, "pooling must be of last, max, mean, attention"),
        ({"dropout": "much"}, "dropout must be a number"),
    ],
)
def test_wrong_parameters_are_told_at_fit(parameters, message):
    with pytest.raises(UsageError, match=message):
        TextClassifier(**parameters).fit(["a b", "c d"] * 4, [0, 1] * 4)


def test_equal_seeds_give_equal_weights(fitted, order_texts):
    texts, labels = order_texts
    runs = [TextClassifier(**TINY, random_state=seed).fit(texts[:60], labels[:60]) for seed in (1, 1, 2)]
    first, again, other = (run.model_.weights for run in runs)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_inside_pipeline_search_and_cross_validation(order_texts):
    texts, labels = order_texts
    texts, labels = texts[:60], labels[:60]
    clean = FunctionTransformer(lambda rows: [row.replace("film", "movie") for row in rows])
    pipeline = Pipeline([("clean", clean), ("model", TextClassifier(**{**TINY, "max_epochs": 1}))])
    scores = cross_val_score(pipeline, texts, labels, cv=2)
    assert scores.shape == (2,)
    search = GridSearchCV(pipeline, {"model__hidden_size": [2, 3]}, cv=2).fit(texts, labels)
    assert search.best_params_["model__hidden_size"] in (2, 3)
    assert search.predict(texts[:2]).shape == (2,)


def test_search_in_several_threads(order_texts):
    texts, labels = order_texts
    search = GridSearchCV(TextClassifier(**{**TINY, "max_epochs": 1}), {"hidden_size": [2, 3]}, cv=2, n_jobs=2)
    with parallel_config("threading"):  # processes need what the next test checks, and a second each to start
        search.fit(texts[:40], labels[:40])
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()


@pytest.mark.parametrize("copying", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_copies_of_a_fitted_estimator(fitted, order_texts, copying):
    texts = order_texts[0][:20]
    np.testing.assert_array_equal(copying(fitted).predict_proba(texts), fitted.predict_proba(texts))


def test_saved_and_loaded(fitted, order_texts, tmp_path):
    texts = order_texts[0][:20]
    folder = fitted.save(tmp_path / "model")
    loaded = bilstm.load(folder)
    np.testing.assert_array_equal(loaded.predict_proba(texts), fitted.predict_proba(texts))
    assert loaded.predict(texts) == fitted.predict(texts).tolist()


@pytest.mark.parametrize(
    "labels",
    [[0, 1], [False, True], ["no", "yes"], [3.0, 5.0], [-1, 7], ["a", "b", "c"], [10, 2, 1]],
    ids=str,
)
def test_labels_keep_their_type(labels):
    y = np.array(labels * 12)
    texts = [f"word{labels.index(label)} here" for label in labels * 12]
    model = TextClassifier(**{**TINY, "max_epochs": 8, "batch_size": 8, "learning_rate": 0.05}).fit(texts, y)
    found = model.predict(texts)
    assert found.dtype == y.dtype
    assert set(found) <= set(labels)
    assert list(model.classes_) == sorted(set(labels))
    assert np.mean(found == y) > 0.8


def test_several_labels_a_text():
    texts = ["red round", "red", "round", "grey"] * 12
    y = np.array([[1, 1], [1, 0], [0, 1], [0, 0]] * 12)
    model = TextClassifier(**{**TINY, "max_epochs": 10, "learning_rate": 0.05}).fit(texts, y)
    assert model.predict(texts[:4]).shape == (4, 2)
    assert (model.predict(texts[:4]) == y[:4]).mean() > 0.8


def test_numbers():
    texts = ["very good", "good", "bad", "very bad"] * 12
    y = np.array([9.0, 7.0, 3.0, 1.0] * 12)
    model = TextRegressor(**{**TINY, "max_epochs": 15, "learning_rate": 0.05}).fit(texts, y)
    assert model.score(texts, y) > 0.6
    assert model.predict(texts[:3]).dtype == np.float64


def test_inputs_of_other_types(fitted, order_texts):
    texts = order_texts[0][:6]
    expected = fitted.predict_proba(texts)
    for form in (tuple(texts), np.array(texts), np.array(texts, dtype=object)):
        np.testing.assert_array_equal(fitted.predict_proba(form), expected)
    if (pandas := sys_modules_pandas()) is not None:
        np.testing.assert_array_equal(fitted.predict_proba(pandas.Series(texts, index=range(6, 0, -1))), expected)


def sys_modules_pandas():
    try:
        import pandas
    except ImportError:
        return None
    return pandas


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ("a text", [0], "Put a single text in a list"),
        (["a", 3, "b"], [0, 1, 0], r"X\[1\] is int, not a text"),
        (["a", None], [0, 1], r"X\[1\] is NoneType, not a text"),
        (["a", "b"], [0, 1, 0], r"X has 2 texts, y has shape \(3,\)"),
        (["a", "b"], None, "requires y to be passed"),
        ([], [], "0 sample"),
        (["a", "b"], [1, 1], "1 class"),
        (["a b", "c d", "a"], [0.5, 0.25, 0.1], "Unknown label type: continuous"),
        (np.array([["a"], ["b"]]), [0, 1], "Reshape your data"),
    ],
    ids=range(9),
)
def test_wrong_input_is_one_clear_line(X, y, message):
    with pytest.raises(UsageError, match=message) as caught:
        TextClassifier(**TINY).fit(X, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("y", [[1.0, float("nan")] * 3, [1.0, float("inf")] * 3, ["a", "b"] * 3])
def test_numbers_that_are_none(y):
    with pytest.raises(UsageError, match="y must be"):
        TextRegressor(**TINY).fit(["a b", "c d"] * 3, y)


def test_given_development_part(order_texts):
    texts, labels = order_texts
    model = TextClassifier(**TINY).fit(texts[:40], labels[:40], valid=(texts[40:60], labels[40:60]))
    assert model.dev_metrics_["rows"] == 20
    with pytest.raises(UsageError, match="was not in the training data"):
        TextClassifier(**TINY).fit(texts[:40], labels[:40], valid=(texts[40:42], ["pos", "other"]))


def test_progress_only_if_asked(order_texts, capsys):
    texts, labels = order_texts
    TextClassifier(**{**TINY, "max_epochs": 1}).fit(texts[:20], labels[:20])
    assert capsys.readouterr() == ("", "")
    TextClassifier(**{**TINY, "max_epochs": 1}, verbose=True).fit(texts[:20], labels[:20])
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1/1" in err
