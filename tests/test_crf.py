"""The CRF against brute force over all tag sequences, plain-torch recursion, and finite differences."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm.data.ragged import Ragged
from bilstm.errors import DataError, ShapeError
from bilstm.layers.crf import Crf
from bilstm.runtime import crf as runtime_crf
from bilstm.runtime.crf import CrfWeights, build_lattice, decode, n_best, sequence_scores

torch.set_num_threads(1)


def brute_force(scores, weights):
    """All allowed tag sequences of one sequence with their scores, best first; written from the definition."""
    steps, tags = scores.shape
    found = []
    for path in itertools.product(range(tags), repeat=steps):
        total = 0.0
        if steps:
            total += weights.start[path[0]] + weights.end[path[-1]]
        total += sum(scores[step, tag] for step, tag in enumerate(path))
        total += sum(weights.transitions[a, b] for a, b in itertools.pairwise(path))
        if total > -np.inf:
            found.append((float(total), path))
    return sorted(found, reverse=True)


def random_case(seed, tags, lengths, forbid=0.0, spread=2.0):
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    emissions = Ragged(random.normal(size=(offsets[-1], tags)) * spread, offsets)
    transitions, start, end = (random.normal(size=shape) * spread for shape in [(tags, tags), tags, tags])
    transitions[random.random((tags, tags)) < forbid] = -np.inf
    np.fill_diagonal(transitions, 0.5)  # so that at least one way stays open
    start[1:][random.random(tags - 1) < forbid] = -np.inf
    end[:-1][random.random(tags - 1) < forbid / 2] = -np.inf
    end[0] = 0.1
    return emissions, CrfWeights(transitions, start, end)


cases = st.builds(
    random_case,
    seed=st.integers(0, 2**32 - 1),
    tags=st.integers(1, 4),
    lengths=st.lists(st.integers(0, 5), min_size=0, max_size=4),
    forbid=st.sampled_from([0.0, 0.3, 0.6]),
    spread=st.sampled_from([0.1, 2.0, 30.0]),
)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_sums_equal_brute_force(case):
    emissions, weights = case
    lattice = build_lattice(emissions, weights)
    expected_pairs = np.zeros((weights.tags, weights.tags))
    row_weights = np.arange(1.0, len(emissions) + 1)
    for row in range(len(emissions)):
        paths = brute_force(emissions[row], weights)
        scores = np.array([score for score, _ in paths])
        log_partition = np.logaddexp.reduce(scores)
        assert lattice.log_partition[row] == pytest.approx(log_partition, abs=1e-9)
        probabilities = np.exp(scores - log_partition)
        marginals = np.zeros_like(emissions[row])
        for probability, (_, path) in zip(probabilities, paths, strict=True):
            for step, tag in enumerate(path):
                marginals[step, tag] += probability
            for a, b in itertools.pairwise(path):
                expected_pairs[a, b] += row_weights[row] * probability
        first, last = emissions.offsets[row], emissions.offsets[row + 1]
        np.testing.assert_allclose(lattice.marginals[first:last], marginals, atol=1e-9)
    np.testing.assert_allclose(lattice.transition_expectations(row_weights), expected_pairs, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(cases, st.integers(1, 30))
def test_best_and_n_best_equal_brute_force(case, n):
    emissions, weights = case
    tags, scores = decode(emissions, weights)
    lists = n_best(emissions, weights, n)
    for row in range(len(emissions)):
        paths = brute_force(emissions[row], weights)
        assert scores[row] == pytest.approx(paths[0][0], abs=1e-9)
        found = [tuple(int(tag) for tag in path) for path, _ in lists[row]]
        assert len(found) == len(set(found)) == min(n, len(paths))
        np.testing.assert_allclose([score for _, score in lists[row]], [s for s, _ in paths[:n]], atol=1e-9)
        by_path = {path: score for score, path in paths}
        np.testing.assert_allclose([by_path[path] for path in found], [score for _, score in lists[row]], atol=1e-9)
        assert by_path[tuple(int(tag) for tag in tags[row])] == pytest.approx(paths[0][0], abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(cases, st.data())
def test_path_probability_equals_brute_force(case, data):
    emissions, weights = case
    rows = np.flatnonzero(emissions.lengths)
    if not len(rows):
        return
    row = int(data.draw(st.sampled_from(list(rows))))
    length = int(emissions.lengths[row])
    begin = data.draw(st.integers(0, length - 1))
    wanted = data.draw(st.lists(st.integers(0, weights.tags - 1), min_size=1, max_size=length - begin))
    paths = brute_force(emissions[row], weights)
    log_partition = np.logaddexp.reduce([score for score, _ in paths])
    expected = sum(
        np.exp(score - log_partition) for score, path in paths if list(path[begin : begin + len(wanted)]) == wanted
    )
    found = build_lattice(emissions, weights).path_probability(row, begin, np.array(wanted))
    assert found == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(cases, st.integers(0, 2**32 - 1))
def test_log_space_sums_equal_scaled_sums(case, seed):
    emissions, weights = case
    layout = runtime_crf._TimeMajor.of(emissions.offsets)
    scores = emissions.values[layout.index]
    scaled = runtime_crf._sum_scaled(scores, layout, weights)
    exact = runtime_crf._sum_log_space(scores, layout, weights)
    if scaled is not None:
        np.testing.assert_allclose(scaled[0], exact[0], atol=1e-9)
        np.testing.assert_allclose(scaled[1], exact[1], atol=1e-9)
        reached = exact[1] > 1e-100
        np.testing.assert_allclose(scaled[2][reached], exact[2][reached], atol=1e-8)


def test_scores_too_far_apart_for_scaling_are_still_exact():
    # Tag 0 is ahead by 3000 at the first step, but only tag 1 may go on to the only tag that may end.
    transitions = np.array([[0.0, -np.inf, -np.inf], [-np.inf, 0.0, 0.0], [-np.inf, -np.inf, 0.0]])
    weights = CrfWeights(transitions, np.array([0.0, 0.0, -np.inf]), np.array([-np.inf, -np.inf, 0.0]))
    emissions = Ragged(np.array([[3000.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 0.0, 0.0]], np.float32), np.array([0, 3]))
    assert (
        runtime_crf._sum_scaled(emissions.values.astype(float), runtime_crf._TimeMajor.of(emissions.offsets), weights)
        is None
    )
    lattice = build_lattice(emissions, weights)
    assert lattice.log_partition[0] == pytest.approx(np.logaddexp(1.0, 2.0), abs=1e-9)
    np.testing.assert_allclose(lattice.marginals[1], [0.0, 1 / (1 + np.e), np.e / (1 + np.e)], atol=1e-9)
    np.testing.assert_allclose(lattice.transition_expectations(np.ones(1)).sum(), 2.0, atol=1e-9)


def plain_torch_loss(crf, emissions, tags):
    """The same loss as a loop of torch operations over one sequence at a time, differentiated by autograd."""
    blocked = {name: torch.from_numpy(~allowed) for name, allowed in crf._allowed.items()}
    transitions = crf.transitions.masked_fill(blocked["transitions"], -1e30)
    start, end = crf.start.masked_fill(blocked["start"], -1e30), crf.end.masked_fill(blocked["end"], -1e30)
    losses = []
    for row in range(len(emissions)):
        scores, path = emissions[row], tags[row]
        if len(scores) == 0:
            losses.append(scores.sum())
            continue
        alpha = start + scores[0]
        gold = start[path[0]] + scores[0, path[0]]
        for step in range(1, len(scores)):
            alpha = torch.logsumexp(alpha[:, None] + transitions, 0) + scores[step]
            gold = gold + transitions[path[step - 1], path[step]] + scores[step, path[step]]
        losses.append(torch.logsumexp(alpha + end, 0) - gold - end[path[-1]])
    return torch.stack(losses)


def torch_case(seed, tags, lengths, forbid, dtype=torch.float64):
    emissions, weights = random_case(seed, tags, lengths, forbid)
    crf = Crf(tags, *(~np.isneginf(part) for part in (weights.transitions, weights.start, weights.end))).to(dtype)
    with torch.no_grad():
        for name in ("transitions", "start", "end"):
            getattr(crf, name).copy_(torch.from_numpy(np.nan_to_num(getattr(weights, name), neginf=5.0)))
    values = torch.from_numpy(emissions.values).to(dtype).requires_grad_()
    offsets = torch.from_numpy(emissions.offsets)
    # a path that is allowed, but not the best one: the last of the ten best
    gold = [lists[-1][0] for lists in n_best(emissions, weights, 10)]
    tags = Ragged(torch.from_numpy(np.concatenate([*gold, np.zeros(0, np.int64)])), offsets)
    return crf, Ragged(values, offsets), tags


@pytest.mark.parametrize("forbid", [0.0, 0.4])
@pytest.mark.parametrize(("tags", "lengths"), [(3, [1, 4, 0, 2]), (6, [9, 9, 3]), (1, [3, 1]), (20, [40, 1, 17])])
def test_loss_and_gradients_equal_plain_torch(tags, lengths, forbid):
    crf, emissions, gold = torch_case(7, tags, lengths, forbid)
    weights = torch.arange(1.0, len(lengths) + 1, dtype=torch.float64)
    parameters = [emissions.values, crf.transitions, crf.start, crf.end]
    losses = crf.loss(emissions, gold)
    found = torch.autograd.grad((losses * weights).sum(), parameters)
    expected_losses = plain_torch_loss(crf, emissions, gold)
    expected = torch.autograd.grad((expected_losses * weights).sum(), parameters)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-9, atol=1e-9)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("forbid", [0.0, 0.4])
@pytest.mark.parametrize(("tags", "lengths"), [(4, [5, 1, 0]), (3, [4, 5]), (2, [2]), (1, [5])])
def test_loss_and_gradients_equal_the_sum_over_all_sequences(tags, lengths, forbid):
    """By the definition: every allowed sequence scored one by one, and torch's own gradient of that sum."""
    crf, emissions, gold = torch_case(5, tags, lengths, forbid)
    parameters = [emissions.values, crf.transitions, crf.start, crf.end]

    def score(values, path):
        total = crf.start[path[0]] + crf.end[path[-1]] + sum(values[step, tag] for step, tag in enumerate(path))
        return total + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path))

    allowed = crf._allowed
    expected = []
    for row, length in enumerate(lengths):
        if not length:
            expected.append(torch.zeros((), dtype=torch.float64))
            continue
        paths = [
            path
            for path in itertools.product(range(tags), repeat=length)
            if allowed["start"][path[0]]
            and allowed["end"][path[-1]]
            and all(allowed["transitions"][a, b] for a, b in itertools.pairwise(path))
        ]
        scores = torch.stack([score(emissions[row], path) for path in paths])
        expected.append(torch.logsumexp(scores, 0) - score(emissions[row], gold[row].tolist()))
    weights = torch.arange(1.0, len(lengths) + 1, dtype=torch.float64)
    losses = crf.loss(emissions, gold)
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-10, atol=1e-10)
    found = torch.autograd.grad((losses * weights).sum(), parameters)
    true = torch.autograd.grad((torch.stack(expected) * weights).sum(), parameters)
    for one, other in zip(found, true, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("forbid", [0.0, 0.4])
def test_gradients_equal_finite_differences(forbid):
    crf, emissions, gold = torch_case(3, 4, [3, 1, 5, 0], forbid)

    def loss(values, transitions, start, end):
        crf.transitions, crf.start, crf.end = (torch.nn.Parameter(part) for part in (transitions, start, end))
        object.__setattr__(crf, "_parameters", {"transitions": transitions, "start": start, "end": end})
        return crf.loss(Ragged(values, emissions.offsets), gold)

    inputs = [
        emissions.values,
        *(part.detach().clone().requires_grad_() for part in (crf.transitions, crf.start, crf.end)),
    ]
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-7)


def test_float32_is_as_good_as_the_format_allows():
    crf, emissions, gold = torch_case(11, 12, [200, 3], 0.3)
    expected = crf.loss(emissions, gold)
    single = Crf(12, *crf._allowed.values())
    single.load_state_dict({name: value.float() for name, value in crf.state_dict().items()})
    losses = single.loss(Ragged(emissions.values.detach().float(), emissions.offsets), gold)
    assert losses.dtype == torch.float32
    # Two sums of about 1,000 in float32 are subtracted: half a unit in the last place of each, and of the emissions.
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=2e-3)


def test_forbidden_transitions_hold_in_training_and_decoding():
    allowed = np.array([[True, False], [True, True]])
    crf = Crf(2, allowed)
    with torch.no_grad():
        crf.transitions[0, 1] = 50.0  # never read
    offsets = torch.tensor([0, 2])
    emissions = Ragged(torch.tensor([[5.0, 0.0], [0.0, 5.0]]), offsets)
    # Allowed are 00, 10 and 11: the sum has exactly these three.
    expected = torch.logsumexp(torch.tensor([5.0, 0.0, 5.0]), 0)
    torch.testing.assert_close(crf.log_partition(emissions)[0], expected)
    assert crf.decode(emissions).values.tolist() in ([0, 0], [1, 1])
    loss = crf.loss(emissions, Ragged(torch.tensor([1, 1]), offsets)).sum()
    loss.backward()
    assert crf.transitions.grad[0, 1] == 0.0
    with pytest.raises(DataError, match="Sequence 0, step 1: tag 1 may not follow tag 0"):
        crf.loss(emissions, Ragged(torch.tensor([0, 1]), offsets))


def test_forbidden_start_and_end_are_named():
    no_start, no_end = np.array([False, True]), np.array([True, False])
    crf = Crf(2, None, no_start, no_end)
    offsets = torch.tensor([0, 0, 2])
    emissions = Ragged(torch.zeros(2, 2), offsets)
    with pytest.raises(DataError, match="Sequence 1 starts with tag 0"):
        crf.loss(emissions, Ragged(torch.tensor([0, 0]), offsets))
    with pytest.raises(DataError, match="Sequence 1 ends with tag 1"):
        crf.loss(emissions, Ragged(torch.tensor([1, 1]), offsets))
    assert crf.decode(emissions).values.tolist() == [1, 0]


def test_sequence_without_an_allowed_path_is_an_error():
    weights = CrfWeights(np.array([[-np.inf]]), np.zeros(1), np.zeros(1))
    one_step, two_steps = (Ragged(np.zeros((n, 1)), np.array([0, n])) for n in (1, 2))
    assert build_lattice(one_step, weights).log_partition[0] == 0.0
    with pytest.raises(DataError, match="Sequence 0 of 2 steps has no tag sequence"):
        build_lattice(two_steps, weights)
    assert n_best(two_steps, weights, 3) == [[]]
    assert decode(two_steps, weights)[1][0] == -np.inf


def test_results_do_not_depend_on_batch_mates_or_order():
    emissions, weights = random_case(5, 7, [30, 0, 1, 12, 30, 5], forbid=0.3)
    order = [3, 1, 5, 0, 4, 2]
    shuffled = emissions.select(order)
    lattice, other = build_lattice(emissions, weights), build_lattice(shuffled, weights)
    np.testing.assert_allclose(other.log_partition, lattice.log_partition[order], rtol=1e-12)
    tags, _ = decode(emissions, weights)
    for place, row in enumerate(order):
        np.testing.assert_array_equal(decode(shuffled, weights)[0][place], tags[row])
        alone = emissions.select([row])
        assert build_lattice(alone, weights).log_partition[0] == pytest.approx(lattice.log_partition[row], rel=1e-12)
        np.testing.assert_array_equal(decode(alone, weights)[0].values, tags[row])


def test_nan_stays_in_its_own_sequence():
    emissions, weights = random_case(6, 3, [4, 4])
    clean = build_lattice(emissions, weights)
    values = emissions.values.copy()
    values[1] = np.nan
    spoiled = build_lattice(Ragged(values, emissions.offsets), weights)
    assert np.isnan(spoiled.log_partition[0])
    assert spoiled.log_partition[1] == pytest.approx(clean.log_partition[1], rel=1e-12)
    np.testing.assert_allclose(spoiled.marginals[4:], clean.marginals[4:], atol=1e-12)


@pytest.mark.parametrize("length", [1, 2000])
def test_long_and_short_sequences(length):
    emissions, weights = random_case(8, 5, [length], forbid=0.2)
    lattice = build_lattice(emissions, weights)
    np.testing.assert_allclose(lattice.marginals.sum(axis=1), 1.0, atol=1e-9)
    _, score = decode(emissions, weights)
    assert score[0] <= lattice.log_partition[0]
    assert lattice.log_partition[0] <= score[0] + length * np.log(5)


def test_search_in_blocks_gives_the_same(monkeypatch):
    emissions, weights = random_case(9, 6, [5, 9, 3, 9, 1])
    tags, scores = decode(emissions, weights)
    monkeypatch.setattr(runtime_crf, "SEARCH_BLOCK", 40)
    in_blocks, same_scores = decode(emissions, weights)
    np.testing.assert_array_equal(in_blocks.values, tags.values)
    np.testing.assert_array_equal(same_scores, scores)


def test_wrong_input_is_named():
    emissions, weights = random_case(1, 3, [2, 2])
    with pytest.raises(ShapeError, match=r"Emissions must be \(steps, 3\)"):
        build_lattice(Ragged(np.zeros((4, 2)), emissions.offsets), weights)
    with pytest.raises(ShapeError, match="Tag 3 at step 1"):
        sequence_scores(emissions, Ragged(np.array([0, 3, 0, 0]), emissions.offsets), weights)
    with pytest.raises(ShapeError, match="offsets differ"):
        sequence_scores(emissions, Ragged(np.zeros(4, np.int64), np.array([0, 1, 4])), weights)
    with pytest.raises(ShapeError, match="NaN or plus infinity"):
        CrfWeights(np.full((1, 1), np.nan), np.zeros(1), np.zeros(1))
    with pytest.raises(ShapeError, match="at least 1"):
        n_best(emissions, weights, 0)
    with pytest.raises(ShapeError, match="allowed_start must be bool"):
        Crf(2, None, np.ones(2))
