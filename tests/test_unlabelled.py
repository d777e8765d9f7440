"""Learning from unlabelled texts: the mixed objective by independent formulas, batches, budget, phases, resuming."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, rel_entr, softmax
from torch import nn

from bilstm.data.ragged import Ragged
from bilstm.errors import DataError, OutputError, UsageError
from bilstm.tasks import joined_teaching, phase_documents, text_mixing, text_phases, text_teaching
from bilstm.tasks.phase_losses import MixedLoss
from bilstm.tasks.phase_results import PhaseRecord, is_kept
from bilstm.tasks.text_classification import words_of
from bilstm.tasks.text_network import Part
from bilstm.tasks.text_phases import UnlabelledTraining
from bilstm.tasks.text_training import Unlabelled, fit
from bilstm.training import events, linear_teacher
from bilstm.training.budget import Budget, clock_text, parse_budget, steps_within
from bilstm.training.loop import DevScore
from bilstm.training.objectives import binary_cross_entropy, cross_entropy, perturbation, soft_cross_entropy
from bilstm.training.self_training import choose_pseudo_labels
from bilstm.training.unlabelled import MixedBatches
from bilstm.training.virtual_adversarial import divergence, mixed_terms, prediction_entropy, standardize_embedding
from unlabelled_runs import BINARY, SMALL, Cut, texts_of, trained

# ---- the four terms ------------------------------------------------------------------------------------------------


class Scorer(nn.Module):
    """A curved function of all steps of a row, without chance, in float64."""

    def __init__(self, outputs: int):
        super().__init__()
        torch.manual_seed(4)
        self.inner, self.outer = nn.Linear(3, 6).double(), nn.Linear(6, outputs).double()

    def forward(self, batch: Ragged) -> torch.Tensor:
        rows = torch.repeat_interleave(torch.arange(len(batch)), batch.offsets[1:] - batch.offsets[:-1])
        sums = torch.zeros(len(batch), 6, dtype=torch.float64).index_add(0, rows, torch.tanh(self.inner(batch.values)))
        return self.outer(sums)


def number(value: torch.Tensor) -> float:
    return value.detach().item()


def embedded_rows() -> Ragged:
    generator = torch.Generator().manual_seed(9)
    values = torch.randn(9, 3, generator=generator, dtype=torch.float64).requires_grad_()
    return Ragged(values, torch.tensor([0, 2, 5, 6, 9]))


def test_divergence_and_entropy_by_their_formulas():
    p, q = np.array([[0.3, -1.0, 2.0], [0.0, 0.0, 4.0]]), np.array([[1.0, 0.5, 0.1], [2.0, -3.0, 0.0]])
    expected = rel_entr(softmax(p, axis=1), softmax(q, axis=1)).sum(axis=1).mean()
    assert math.isclose(number(divergence(torch.tensor(p), torch.tensor(q))), expected, rel_tol=1e-12)
    shares = softmax(p, axis=1)
    assert math.isclose(number(prediction_entropy(torch.tensor(p))), -(shares * np.log(shares)).sum(1).mean())
    one, other = np.array([[0.7], [-2.0]]), np.array([[-0.2], [-2.5]])
    expected = (rel_entr(expit(one), expit(other)) + rel_entr(expit(-one), expit(-other))).mean()
    assert math.isclose(number(divergence(torch.tensor(one), torch.tensor(other))), expected, rel_tol=1e-12)


def test_with_two_classes_the_change_is_the_worst_of_many():
    net, batch, norm = Scorer(1), embedded_rows(), 0.01
    targets = torch.tensor([1, 0])
    terms = mixed_terms(net, batch, targets, binary_cross_entropy, norm=norm)
    worst_loss = worst_change = 0.0
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        logits = net(batch)
        for _ in range(4000):
            change = perturbation(torch.randn(9, 3, generator=generator, dtype=torch.float64), batch.offsets, norm)
            moved = net(batch.with_values(batch.values + change))
            worst_loss = max(worst_loss, number(binary_cross_entropy(moved[:2], targets)))
            worst_change = max(worst_change, number(divergence(logits[2:], moved[2:])))
    assert number(terms.supervised) == pytest.approx(number(binary_cross_entropy(logits[:2], targets)))
    assert number(terms.adversarial) >= worst_loss > number(terms.supervised)
    assert number(terms.virtual) >= worst_change > 0.3 * number(terms.virtual)


def test_with_two_classes_the_direction_is_that_of_power_iteration():
    net, batch = Scorer(1), embedded_rows()
    (own,) = torch.autograd.grad(net(batch)[:, 0].sum(), batch.values)
    own = perturbation(own, batch.offsets, 1.0)
    trial = torch.randn(9, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    trial = perturbation(trial, batch.offsets, 1e-5).requires_grad_()
    moved = net(batch.with_values(batch.values.detach() + trial))
    (found,) = torch.autograd.grad(divergence(net(batch).detach(), moved) * 1e9, trial)
    found = perturbation(found, batch.offsets, 1.0)
    for row in range(4):
        steps = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
        assert abs(number((own[steps] * found[steps]).sum())) == pytest.approx(1.0, abs=1e-4)


def test_with_more_classes_the_change_is_worse_than_chance():
    net, batch = Scorer(4), embedded_rows()
    targets, norm = torch.tensor([3, 1]), 0.05
    torch.manual_seed(0)
    terms = mixed_terms(net, batch, targets, cross_entropy, norm=norm)
    generator, changes = torch.Generator().manual_seed(1), []
    with torch.no_grad():
        for _ in range(300):
            change = perturbation(torch.randn(9, 3, generator=generator, dtype=torch.float64), batch.offsets, norm)
            changes.append(number(divergence(net(batch)[2:], net(batch.with_values(batch.values + change))[2:])))
    assert number(terms.virtual) > np.quantile(changes, 0.8)
    assert number(terms.adversarial) > number(terms.supervised)


def test_total_weighs_the_unlabelled_terms_and_trains_all_weights():
    net, targets = Scorer(1), torch.tensor([1, 0])
    for weight in (0.0, 0.5, 1.0):
        terms = mixed_terms(
            net, embedded_rows(), targets, binary_cross_entropy, norm=0.1, unlabelled_weight=weight,
            parameters=list(net.parameters()),
        )  # fmt: skip
        labelled = number(terms.supervised + terms.adversarial)
        assert number(terms.total) == pytest.approx(labelled + weight * number(terms.virtual + terms.entropy))
    terms.total.backward()
    assert all(number(p.grad.abs().sum()) > 0 for p in net.parameters())


@pytest.mark.parametrize("labels", [[1, 0], [0, 1, 1, 0]])
def test_the_gradient_kept_from_the_search_is_that_of_three_passes(labels):
    found = []
    for keeps in (False, True):
        net, passes = Scorer(1), []
        table = torch.randn(9, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64).requires_grad_()

        net.inner.register_full_backward_hook(lambda *_, passes=passes: passes.append(1))
        batch = Ragged(2.0 * table, torch.tensor([0, 2, 5, 6, 9]))
        parameters = list(net.parameters()) if keeps else []
        terms = mixed_terms(
            net, batch, torch.tensor(labels), lambda z, y: binary_cross_entropy(z, y, label_smoothing=0.1), norm=0.1,
            unlabelled_weight=0.7, parameters=parameters,
        )  # fmt: skip
        (3.0 * terms.total).backward()
        assert len(passes) == (2 if keeps else 3)
        found.append([terms.total.detach(), terms.virtual, table.grad, *(p.grad for p in net.parameters())])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-10, atol=1e-14)


def test_a_sure_answer_is_not_moved_and_stays_finite():
    net, batch = Scorer(1), embedded_rows()
    with torch.no_grad():
        net.outer.bias.fill_(900.0)
    terms = mixed_terms(
        net, batch, torch.tensor([1]), binary_cross_entropy, norm=0.1, parameters=list(net.parameters())
    )
    terms.total.backward()
    assert number(terms.total) == 0.0
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters())


def test_a_batch_of_labelled_rows_alone_has_no_unlabelled_terms():
    terms = mixed_terms(Scorer(1), embedded_rows(), torch.tensor([1, 0, 1, 1]), binary_cross_entropy, norm=0.1)
    assert number(terms.virtual) == number(terms.entropy) == 0.0
    with pytest.raises(UsageError, match="1 to 4 labelled rows, got 0"):
        mixed_terms(Scorer(1), embedded_rows(), torch.tensor([]), binary_cross_entropy, norm=0.1)


def test_standardized_table_has_one_scale_over_the_text():
    weight, shares = torch.randn(5, 3) * 4 + 2, torch.tensor([0.1, 0.4, 0.2, 0.0, 0.3])
    standardize_embedding(weight, shares, 0.3)
    text = weight.numpy()[np.repeat([0, 1, 2, 4], [1, 4, 2, 3])]
    np.testing.assert_allclose(text.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(text.std(axis=0), 0.3, rtol=1e-5)


# ---- batches, pseudo-labels, budget --------------------------------------------------------------------------------


def test_each_kind_of_rows_goes_round_in_epochs_of_its_own():
    deal = MixedBatches(np.full(10, 4), np.full(23, 6), steps=5, max_rows=3, max_steps=100, seed=2)
    steps = [step for number in range(1, 9) for step in deal.epoch(number)]
    assert [step.place for step in steps] == list(range(40))
    labelled = [sorted(np.concatenate([s.labelled for s in steps[first : first + 4]])) for first in range(0, 40, 4)]
    assert labelled == [list(range(10))] * 10
    rest = [sorted(np.concatenate([s.unlabelled for s in steps[first : first + 8]])) for first in range(0, 40, 8)]
    assert rest == [list(range(23))] * 5
    again = MixedBatches(np.full(10, 4), np.full(23, 6), steps=5, max_rows=3, max_steps=100, seed=2).epoch(6)
    assert all(np.array_equal(a.unlabelled, b.unlabelled) for a, b in zip(again, steps[25:30], strict=True))


def test_pseudo_labels_are_the_surest_in_the_shares_of_the_classes():
    rows = [[0.99, 0.01], [0.6, 0.4], [0.1, 0.9], [0.02, 0.98], [0.3, 0.7], [0.97, 0.03], [0.04, 0.96]]
    found = choose_pseudo_labels(np.array(rows), np.array([0.5, 0.5]), share=1.0, threshold=0.9)
    assert found.rows.tolist() == [0, 3, 5, 6]  # row 2 is the least sure of three, and class 0 has two
    assert found.targets.tolist() == [0, 1, 0, 1]
    assert found.least_confidence == 0.96
    few = choose_pseudo_labels(np.array(rows), np.array([0.5, 0.5]), share=2 / 7, threshold=0.9)
    assert few.rows.tolist() == [0, 3]
    none = choose_pseudo_labels(np.array(rows), np.array([0.5, 0.5]), share=1.0, threshold=0.995)
    assert (none.rows.tolist(), none.least_confidence) == ([], 1.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("20m", 1200.0), ("1.5h", 5400.0), ("300s", 300.0), (" 2H ", 7200.0), ("none", None)]
)
def test_budget_texts(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "m", "-5m", "0m", "20 minutes", "nan", "1d"])
def test_budget_texts_that_are_no_time(text):
    with pytest.raises(UsageError, match="is no time"):
        parse_budget(text)


def test_budget_counts_down():
    now = [100.0]
    budget = Budget(600.0, lambda: now[0])
    now[0] = 340.0
    assert (budget.used(), budget.left(), budget.share(150.0)) == (240.0, 360.0, 0.25)
    assert budget.line() == "4 min of 10 min used, 6 min left"
    now[0] = 1000.0
    assert budget.left() == 0.0
    assert Budget(None).left() == math.inf
    assert [clock_text(s) for s in (45, 720, 7500)] == ["45 s", "12 min", "2 h 5 min"]
    assert [steps_within(100, 2.0, least=8, most=m) for m in (20, 80)] == [20, 50]
    assert steps_within(1, 2.0, least=8, most=50) == 8


def test_a_phase_is_kept_unless_the_development_part_speaks_against_it():
    right = np.array([True] * 80 + [False] * 20)

    def scored(rows: np.ndarray, loss: float) -> tuple[DevScore, np.ndarray]:
        return DevScore(float(rows.mean()), loss), rows

    before = scored(right, 0.5)
    assert is_kept(before, scored(right, 0.9))  # the score does not fall
    slip = right.copy()
    slip[[0, 1]], slip[80] = False, True  # 2 lost, 1 won: within chance
    assert is_kept(before, scored(slip, 0.4))
    assert not is_kept(before, scored(slip, 0.6))
    fall = right.copy()
    fall[:4] = False  # 4 lost, none won: twice the standard error
    assert not is_kept(before, scored(fall, 0.1))


def test_what_is_trusted_is_turned_off_by_two_standard_errors_only():
    def scored(right: int) -> tuple[DevScore, np.ndarray]:
        return DevScore(right / 10, 0.5), np.arange(10) < right

    assert is_kept(scored(10), scored(6), is_trusted=True)  # 4 lost, 2 * sqrt(4)
    assert not is_kept(scored(10), scored(5), is_trusted=True)  # 5 lost, 2 * sqrt(5) = 4.5
    assert not is_kept(scored(10), scored(8))  # 2 lost, sqrt(2)


# ---- whole trainings -----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(text_mixing, "FEWEST_STEPS", 50)
    monkeypatch.setattr(text_mixing, "MOST_PASSES", 5)
    monkeypatch.setattr(text_mixing, "RATE", 0.02)
    monkeypatch.setattr(text_teaching, "SELF_STEPS", 100)
    monkeypatch.setattr(text_teaching, "TEACHER_STEPS", 100)
    monkeypatch.setattr(phase_documents, "FEWEST_TEXTS", 200)
    monkeypatch.setattr(phase_documents, "MOST_PASSES", 4)
    monkeypatch.setattr(phase_documents, "MOST_TOLD_PASSES", 8)


WITHOUT_TEACHER = dataclasses.replace(SMALL, phases=("mixed", "self-training"))


def test_the_linear_teacher_comes_first_and_nothing_after_it_if_it_is_kept():
    outcome, told = trained(texts_of(np.arange(300) % 2, 1))
    labelled, taught, *rest = outcome.phases
    assert (labelled.name, taught.name) == ("labelled texts", "linear teacher")
    assert any("of 300 unlabelled texts labelled by linear models" in note for note in told)
    assert any(note.startswith(f"linear teacher: {'kept' if taught.is_kept else 'turned off'}") for note in told)
    assert (rest == []) == taught.is_kept


def test_with_many_labels_the_models_teach_together(monkeypatch):
    monkeypatch.setattr(text_phases, "FEW_LABELS", 0)
    monkeypatch.setattr(text_teaching, "JOINED_PASSES", 200)
    monkeypatch.setattr(text_mixing, "MOST_PASSES", 1)
    outcome, told = trained(texts_of(np.arange(300) % 2, 1))
    names = [phase.name for phase in outcome.phases]
    assert names[:3] == ["labelled texts", "mixed objective", "joined teacher 1"]  # once, and before
    assert ("joined teacher 2" in names) == outcome.phases[2].is_kept
    assert names.count("mixed objective") == 1
    # the network that was not kept, before or after the mixed objective, teaches too
    said = [note for note in told if note.startswith("joined teacher 1: 2 networks, n-grams and document vectors: ")]
    before, after = (float(word) for word in said[0].split("log loss ")[1].rstrip(".").split(" -> "))
    assert after <= before
    begun = f"Document vectors: {phase_documents.MOST_TOLD_PASSES} passes over "
    said = [note for note in told if note.startswith(begun)]
    assert said[0].endswith("n-grams read as they tell the classes apart.")
    # with the linear baseline at hand, that teaches in place of the n-grams; with little time, nothing is mixed before
    monkeypatch.setattr(text_mixing, "LEAST_SECONDS", np.inf)
    outcome, told = trained(texts_of(np.arange(300) % 2, 1), baseline=True)
    assert outcome.phases[1].name == "joined teacher 1"
    assert any(note.startswith("joined teacher 1: network, linear models and document vectors: ") for note in told)


def test_the_mixed_objective_goes_before_a_teacher_where_it_has_time_for_several_passes(monkeypatch):
    net, told, steps, plans = nn.Linear(1, 1, bias=False), [], 0, {}
    own = net.weight.item()
    training = SimpleNamespace(
        net=net,
        config=dataclasses.replace(SMALL, batch_size=64, batch_steps=10),
        train=Part(Ragged.of([[1] * 5] * 20), np.zeros(20)),  # ten batches of ten words
        labels=BINARY,
        budget=SimpleNamespace(left=lambda: text_mixing.LEAST_SECONDS + 1),
        planned=lambda name, choose: plans.setdefault(name, choose()),
        tell=told.append,
    )

    def measured(training, share, step_loss):
        net.weight.data.fill_(9.0)  # as measuring may
        return {"words": 10, "looks": 2, "steps": steps}

    monkeypatch.setattr(text_mixing, "_mixing", lambda training: (None, None))
    monkeypatch.setattr(text_mixing, "_steps_within", measured)
    steps = 14
    assert not text_mixing.has_time_to_mix(training)
    assert [note.text for note in told] == ["mixed objective: left out, there is time for 2.8 passes only."]
    assert not plans
    steps = 15
    assert text_mixing.has_time_to_mix(training)
    assert plans == {"mixed objective": {"words": 10, "looks": 2, "steps": 15}}  # not measured again
    assert net.weight.item() == own
    training.budget = SimpleNamespace(left=lambda: text_mixing.LEAST_SECONDS - 1)
    assert not text_mixing.has_time_to_mix(training)


def test_pupils_begin_with_what_the_mixed_objective_left_or_go_on_where_time_is_short():
    net, steps, told, is_trained = nn.Linear(1, 1, bias=False), 2, [], False
    best = net.weight.item()
    training = SimpleNamespace(
        net=net,
        config=SMALL,
        train=Part(Ragged.of([[1]]), np.zeros(1)),
        initial={"weight": torch.tensor([[2.0]])},
        anew=lambda: (training.initial, is_trained),
        taught_from={},
        planned=lambda name, choose: {"words": 10, "looks": 2, "steps": steps},
        tell=told.append,
        loop=lambda name, step_loss, objective, deal, config: (net.weight.item(), config.learning_rate),
    )
    given = (training, "joined teacher 1", None, Part(Ragged.of([[1] * 50]), np.zeros(1)), None, 10)
    words = {"words": (50, 50)}
    assert text_teaching._learn(*given, **words, may_go_on=True) == (2.0, SMALL.learning_rate)  # 4 passes
    net.weight.data.fill_(best)
    steps = 1
    assert text_teaching._learn(*given, **words, may_go_on=True) == (best, text_teaching.TAUGHT_FROM_RATE)  # 2 passes
    assert told[0].text.startswith("joined teacher 1: there is time for 2.0 passes")
    assert text_teaching._learn(*given, **words) == (2.0, SMALL.learning_rate)
    is_trained = True  # then less is enough
    assert text_teaching._learn(*given, **words, may_go_on=True) == (2.0, SMALL.learning_rate)
    net.weight.data.fill_(best)
    few = (training, "joined teacher 1", None, Part(Ragged.of([[1] * 300]), np.zeros(1)), None, 10)
    assert text_teaching._learn(*few, **words, may_go_on=True) == (best, text_teaching.TAUGHT_FROM_RATE)  # 1/3 pass
    assert told.pop().text.startswith("joined teacher 1: there is time for 0.3 passes")
    training.taught_from = {"weight": torch.tensor([[3.0]])}
    assert text_teaching._learn(*given, **words, may_go_on=True) == (3.0, text_teaching.TAUGHT_FROM_RATE)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("record", "begins_with_language"),
    [
        (PhaseRecord("language model", 1.0, False, 0.92, 0.93, 0.1785, 0.1796), True),
        (PhaseRecord("language model", 1.0, False, 0.92, 0.92, 0.1785, 0.1796), True),
        (PhaseRecord("language model", 1.0, False, 0.92, 0.91, 0.1785, 0.1796), False),
        (PhaseRecord("language model", 1.0, True, 0.92, 0.93, 0.1785, 0.1690), False),  # all begins with it then
        (PhaseRecord("labelled texts", 1.0, True, None, 0.92), False),  # there was none
    ],
)
def test_pupils_begin_with_a_language_model_that_was_turned_off_by_its_loss_alone(record, begins_with_language):
    told = []
    training = UnlabelledTraining(*[None] * 5, SMALL, *[None] * 4, told.append, None)
    training.initial, training.language_start, training.records = {"a": 1}, {"a": 2}, [record]
    training._keep_language_for_pupils()
    assert training.anew() == (({"a": 2}, True) if begins_with_language else ({"a": 1}, False))
    assert len(told) == begins_with_language
    training.language_start, training.is_language_for_pupils = {}, False  # it was stopped before it was done
    training._keep_language_for_pupils()
    assert training.anew() == ({"a": 1}, False)


@pytest.mark.parametrize(("left", "asked"), [(float("inf"), 3), (0.0, 1)])
def test_networks_that_were_given_up_are_asked_while_there_is_time(left, asked):
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(1.0)

    class Told:
        """In place of an objective: answers the network's weight times the length of each text."""

        def __init__(self, net, *given):
            self.net = net

        def logits(self, ids):
            return self.net.weight.item() * ids.lengths[:, None].astype(np.float64)

    training = SimpleNamespace(
        net=net,
        config=SMALL,
        train=None,
        labels=BINARY,
        dev=Part(Ragged.of([[1], [1, 1]]), np.zeros(2)),
        given_up=[{"weight": torch.tensor([[2.0]])}, {"weight": torch.tensor([[3.0]])}],
        budget=SimpleNamespace(left=lambda: left),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_teaching, "Objective", Told)
        found = text_teaching._margins_of_networks(training, Ragged.of([[1, 1, 1]]))
    order = [1.0, 3.0, 2.0][:asked]  # the best one, and then the last one that was given up
    np.testing.assert_array_equal(found.dev, np.array([[order], [[2 * own for own in order]]]))
    np.testing.assert_array_equal(found.unlabelled, 3 * np.array([[order]]))
    assert net.weight.item() == 1.0


@pytest.mark.parametrize("networks", [1, 2])
def test_joined_answers_are_the_stacked_models(networks):
    random = np.random.default_rng(0)
    dev = np.arange(300) % 3
    truth = np.arange(200) % 3

    def logits(targets: np.ndarray, noise: float) -> np.ndarray:
        return (np.eye(3)[targets] + noise * random.normal(size=(len(targets), 3)))[..., None]

    def model(*noises: float) -> joined_teaching.TeacherMargins:
        said = [np.concatenate([logits(own, noise) for noise in noises], axis=2) for own in (dev, truth)]
        return joined_teaching.TeacherMargins(*said)

    network, linear = model(*(0.8, 0.7)[:networks]), model(0.6)
    train, texts = Part(Ragged.of([[1]] * 3), np.arange(3)), Ragged.of([[1]] * 200)
    part = Part(Ragged.of([[1]] * 300), dev)
    answers, said = joined_teaching.joined_answers(train, part, texts, 3, network, linear, None)
    stacked = np.concatenate([network.dev, linear.dev], axis=2)  # (rows, classes, models): one weight a model

    def loss(weights: np.ndarray) -> float:
        own = stacked @ weights
        return float(np.mean(np.log(np.exp(own).sum(axis=1)) - own[np.arange(300), dev]))

    best = minimize(loss, np.ones(networks + 1), tol=1e-10)
    own = np.concatenate([network.unlabelled, linear.unlabelled], axis=2) @ best.x
    expected = np.exp(own) / np.exp(own).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    assert said.startswith("network, linear" if networks == 1 else "2 networks, linear")
    assert said.endswith(f"-> {best.fun:.4f}")


def test_soft_cross_entropy_by_its_formula():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=random, dtype=torch.float64)
    wanted = torch.softmax(torch.randn(5, 3, generator=random, dtype=torch.float64), dim=1)
    by_hand = np.mean(
        [-sum(p * (z - np.log(np.exp(row).sum())) for p, z in zip(own, row, strict=True))
         for own, row in zip(wanted.numpy(), logits.numpy(), strict=True)]
    )  # fmt: skip
    assert float(soft_cross_entropy(logits, wanted)) == pytest.approx(by_hand)
    targets = torch.tensor([0, 1, 1])
    one = logits[:3, :1]
    hard = torch.nn.functional.one_hot(targets, 2).double()
    assert float(soft_cross_entropy(one, hard)) == pytest.approx(float(binary_cross_entropy(one, targets)))


def test_document_vectors_that_were_given_are_read(monkeypatch):
    """Vectors that name the class of a text make a teacher that is right about every text."""
    monkeypatch.setattr(text_phases, "FEW_LABELS", 0)
    targets, more = np.arange(120) % 2, np.arange(300) % 2
    documents = tuple(np.eye(2, dtype=np.float32)[own] for own in (targets, more))
    asked = []
    real = text_teaching.joined_answers

    def seen(*given):
        answers, said = real(*given)
        asked.append(answers)
        return answers, said

    monkeypatch.setattr(text_teaching, "joined_answers", seen)
    further = Unlabelled(texts_of(more, 1), Budget(None), documents)
    fit(texts_of(targets, 0), targets, BINARY, SMALL, baseline=False, unlabelled=further)
    assert (asked[0].argmax(axis=1) == more).all()


def test_a_linear_teacher_that_misleads_is_turned_off(monkeypatch):
    ask = linear_teacher.ask_linear_teacher

    def mislead(texts, targets, *rest, **settings):
        said = ask(texts, targets, *rest, **settings)
        return dataclasses.replace(said, answers=said.answers[:, ::-1])

    monkeypatch.setattr(linear_teacher, "ask_linear_teacher", mislead)
    monkeypatch.setattr(phase_documents, "FEWEST_TEXTS", 10_000)
    valid = (texts_of(np.arange(200) % 2, 5), np.arange(200) % 2)
    outcome, told = trained(texts_of(np.arange(300) % 2, 1), valid=valid)
    assert [phase.name for phase in outcome.phases][1:3] == ["linear teacher", "mixed objective"]
    assert not outcome.phases[1].is_kept
    assert outcome.phases[1].score_after < outcome.phases[0].score_after
    assert outcome.phases[1].loss_before < outcome.phases[1].loss_after
    assert any(note.startswith("linear teacher: turned off") for note in told)
    assert outcome.model.joined is not None  # the n-gram model itself was right, and is judged by itself


def test_the_calibrated_loss_chooses_phases_and_epochs_where_there_are_rows_enough():
    targets = np.random.default_rng(0).integers(2, size=200)
    noisy = np.where(np.arange(200) % 8 == 0, 1 - targets, targets)  # no epoch is right everywhere
    outcome, told = trained(
        texts_of(np.arange(300) % 2, 1), valid=(texts_of(targets, 5), noisy), config=WITHOUT_TEACHER
    )
    assert outcome.phases[0].loss_after is None  # there is nothing to be compared with
    for phase in outcome.phases[1:]:
        assert phase.is_kept == (phase.loss_after < phase.loss_before)
        assert any(note.startswith(f"{phase.name}: ") and f"-> {phase.loss_after:.4f}" in note for note in told)
    first = [row for row in outcome.result.history if row.epoch <= WITHOUT_TEACHER.max_epochs]
    chosen = min(first, key=lambda row: row.dev_loss)
    assert outcome.phases[1].loss_before == pytest.approx(chosen.dev_loss)
    least = outcome.phases[-1].loss_after if outcome.phases[-1].is_kept else outcome.phases[-1].loss_before
    assert outcome.temperature.loss_after == pytest.approx(least, rel=1e-3)  # of the runtime's logits


def test_phases_run_and_are_recorded():
    outcome, told = trained(texts_of(np.arange(300) % 2, 1), config=WITHOUT_TEACHER)
    assert [phase.name for phase in outcome.phases] == [
        "labelled texts", "mixed objective", "self-training 1", "self-training 2",
    ]  # fmt: skip
    assert outcome.phases[0].is_kept
    history = outcome.result.history
    assert [row.epoch for row in history] == list(range(1, len(history) + 1))
    for phase in outcome.phases[1:]:
        assert any(note.startswith(f"{phase.name}: {'kept' if phase.is_kept else 'turned off'}") for note in told)
    # words that only unlabelled texts have are known, within the size of the vocabulary
    outcome, _ = trained(["novel word " * 3] * 10)
    assert "novel" in outcome.model.encoder.vocabulary.id_of


def test_a_phase_that_hurts_is_turned_off(monkeypatch):
    def unlearn(self, batch):
        logits = self._objective.net(self._objective.part.ids.select(batch.labelled))
        return -binary_cross_entropy(logits, self._objective.targets[torch.from_numpy(batch.labelled)])

    monkeypatch.setattr(text_phases, "SELF_SHARES", ())
    valid = (texts_of(np.arange(200) % 2, 5), np.arange(200) % 2)
    config = dataclasses.replace(WITHOUT_TEACHER, max_epochs=30)
    without, _ = trained(texts_of(np.arange(100) % 2, 1), valid=valid, config=config)
    monkeypatch.setattr(MixedLoss, "__call__", unlearn)
    outcome, told = trained(texts_of(np.arange(100) % 2, 1), valid=valid, config=config)
    labelled, mixed = outcome.phases
    assert without.phases[0].score_after == labelled.score_after > 0.9
    assert not mixed.is_kept
    assert mixed.score_after < labelled.score_after
    assert any(note.startswith("mixed objective: turned off") for note in told)
    assert outcome.result.best_epoch <= 30
    assert outcome.network_metrics["accuracy"] == pytest.approx(labelled.score_after)


@pytest.mark.parametrize(
    "place",
    [
        ("labelled texts", 2),
        ("linear teacher", 1),
        ("joined teacher", 1),
        ("mixed objective", 2),
        ("self-training 1", 1),
    ],
)
def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path, place, monkeypatch):
    unlabelled = texts_of(np.arange(200) % 2, 1)
    name, epoch = place
    config = SMALL if name.endswith("teacher") else WITHOUT_TEACHER
    if name == "joined teacher":
        monkeypatch.setattr(text_phases, "FEW_LABELS", 0)
        monkeypatch.setattr(text_teaching, "JOINED_PASSES", 200)
    whole, _ = trained(unlabelled, config=config)
    at = {"labelled texts": 0, "mixed objective": 1, "self-training 1": 2}.get(name, 1)
    ended = []

    def cut(event: object) -> None:
        if isinstance(event, events.TrainingEnded):
            ended.append(event)
        if isinstance(event, events.EpochDone) and len(ended) == at and event.row.epoch == epoch:
            raise Cut

    folder = str(tmp_path / "checkpoint")
    with pytest.raises(Cut):
        trained(unlabelled, checkpoint=folder, listen=cut, config=config)
    with pytest.raises(OutputError, match="holds a run that has not ended"):
        trained(unlabelled, checkpoint=folder, config=config)
    outcome, _ = trained(unlabelled, checkpoint=folder, resume=True, config=config)
    assert outcome.model.weights.keys() == whole.model.weights.keys()
    for key, value in whole.model.weights.items():
        assert np.array_equal(value, outcome.model.weights[key]), key


def test_a_budget_shortens_the_phases():
    outcome, told = trained(texts_of(np.arange(300) % 2, 1), budget=Budget(12.0))
    assert outcome.result.steps > 0
    assert any("Budget: " in note and "12 s used" in note for note in told)


def test_other_words_are_told_and_texts_without_known_words_refused():
    _, told = trained(["completely foreign tongue here " * 3] * 20)
    assert any("another language or domain" in note for note in told)
    with pytest.raises(DataError, match="hold no known word"):
        trained(["", " "])
    with pytest.raises(DataError, match="both be texts, or both word ids"):
        trained(Ragged.of([[1, 2]]))  # type: ignore[arg-type]


def test_the_teacher_is_joined_to_the_network_and_survives_the_folder(tmp_path):
    valid = (texts_of(np.arange(100) % 2, 5), np.arange(100) % 2)
    outcome, told = trained(texts_of(np.arange(300) % 2, 1), valid=valid)
    model = outcome.model
    assert outcome.phases[1].is_kept
    assert model.joined is not None
    assert any("was joined to the network's output" in note for note in told)
    np.testing.assert_allclose(model.logits(valid[0]), outcome.dev_logits, atol=1e-5)
    # by hand: half the network's logits, half the margins at the spread of these logits
    network, margins = model.logits_of_ids(model.encode(valid[0])[0]), model.joined.linear.margins(words_of(valid[0]))
    joining = model.joined.joining
    np.testing.assert_allclose(
        outcome.dev_logits, joining.network * network + joining.linear[0] * margins[..., 0], atol=1e-5
    )
    outcome, _ = trained(
        texts_of(np.arange(300) % 2, 1), valid=valid, config=dataclasses.replace(SMALL, join_linear=False)
    )
    assert outcome.model.joined is None
