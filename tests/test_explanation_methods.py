"""Explanation methods against brute force, torch, Captum, and implementations written out step by step."""

import numpy as np
import pytest

from bilstm import description as d
from bilstm.data.ragged import Ragged
from bilstm.data.tokenizers import WordTokenizer
from bilstm.errors import UsageError
from bilstm.explanation import explain, gradients, occlusion
from bilstm.explanation.averaged_network import AveragedNetwork
from bilstm.explanation.decomposition import decompose
from bilstm.explanation.explaining import subject_of
from bilstm.explanation.gradients import (
    GAP_SHARE,
    GAP_SMALL,
    gradient_times_input,
    integrated_gradients,
    quick_gradients,
    run_path,
)
from bilstm.explanation.linear_part import margins_without, occurrences_of, phrase_values, word_shares
from bilstm.explanation.near_occlusion import FEWEST_STEPS, open_texts, scores_nearly_without
from bilstm.explanation.network import Network
from bilstm.explanation.pooled_pass import PooledTrace
from bilstm.explanation.relevance import relevance
from explained_models import linear_models, some_texts, text_model

LENGTHS = (0, 1, 2, 40, 23)


def batch_of(size, lengths=LENGTHS, seed=0):
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(random.normal(size=(offsets[-1], size)).astype(np.float32), offsets)


def network_of(layers, backend="auto", scale=0.3, seed=1):
    random = np.random.default_rng(seed)
    weights = {
        name: random.normal(size=shape, scale=scale).astype(np.float32)
        for name, shape in d.weight_shapes(tuple(layers)).items()
    }
    chosen = "engine" if backend == "auto" and engine_is_there() else "numpy" if backend == "auto" else backend
    return Network.behind_embedding(layers, weights, backend=chosen, threads=1), weights


def engine_is_there():
    from bilstm import engine

    return engine.status().available


def stack(cell="lstm", merge="concat", kinds=("max", "mean"), layers=1, convolution=False, dense="relu", inputs=6):
    found, features = [], inputs
    if convolution:
        found.append(d.Convolution(features, 5, 3))
        features = 5
    recurrent = d.Recurrent(cell, features, 8, layers, merge_mode=merge)
    pooling = d.Pooling(recurrent.output_size, kinds)
    return [*found, recurrent, pooling, d.Linear(pooling.output_size, 5, dense), d.Linear(5, 3)]


# ---- the network and its gradients ----


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize(
    ("merge", "kinds", "convolution"),
    [("concat", ("max", "mean"), False), ("concat", ("last",), True), ("sum", ("attention", "max"), False),
     ("mul", ("mean",), True), ("ave", ("max",), False)],
)  # fmt: skip
def test_gradients_are_those_of_torch(backend, cell, merge, kinds, convolution):
    torch = pytest.importorskip("torch", reason="needs the extra `train`")
    from bilstm.layers import Randomness, build_model

    layers = stack(cell, merge, kinds, layers=2, convolution=convolution)
    module = build_model(tuple(layers), Randomness(0)).eval()
    weights = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    network = Network.behind_embedding(
        layers, weights, backend="engine" if backend == "auto" and engine_is_there() else "numpy", threads=1
    )
    batch = batch_of(6)
    values = torch.tensor(batch.values, requires_grad=True)
    logits = module(Ragged(values, torch.tensor(batch.offsets)))
    contrasts = np.random.default_rng(2).normal(size=logits.shape).astype(np.float32)
    (logits * torch.tensor(contrasts)).sum().backward()
    trace = network.trace(batch, for_gradients=True)
    np.testing.assert_allclose(trace.outputs, logits.detach().numpy(), atol=2e-6)
    np.testing.assert_allclose(network.run(batch), logits.detach().numpy(), atol=2e-6)
    # sums of some hundred float32 products: 1e-6 of values near 1
    np.testing.assert_allclose(network.gradient(trace, contrasts), values.grad.numpy(), atol=5e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("kinds", [("max", "mean"), ("last",), ("mean", "last", "max"), ("max",)])
def test_pass_of_the_default_network_is_that_of_all_networks(cell, kinds):
    """One layer that is pooled goes through the engine at once; layer by layer in numpy gives the same."""
    if not engine_is_there():
        pytest.skip("the engine is not there")
    layers = stack(cell, kinds=kinds, dense="tanh")
    plain, weights = network_of(layers, backend="numpy")
    quick = Network.behind_embedding(layers, weights, backend="engine", threads=1)
    batch, random = batch_of(6), np.random.default_rng(2)
    trace, reference = quick.trace(batch, for_gradients=True), plain.trace(batch, for_gradients=True)
    assert isinstance(trace, PooledTrace)
    assert not isinstance(reference, PooledTrace)
    np.testing.assert_array_equal(trace.outputs, quick.run(batch))  # to the last bit what predicts
    np.testing.assert_allclose(trace.outputs, reference.outputs, atol=2e-6)
    for _ in range(2):  # more than one way back
        wanted = random.normal(size=trace.outputs.shape)
        np.testing.assert_allclose(quick.gradient(trace, wanted), plain.gradient(reference, wanted), atol=5e-6)


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("kinds", [("max", "mean"), ("attention",)])
def test_quick_gradients_are_the_rule_of_lobatto(backend, kinds, monkeypatch):
    """Five gradients at the places and with the weights of Abramowitz and Stegun's table 25.6, from single passes."""
    layers = stack("lstm", kinds=kinds)
    network, _ = network_of(layers, backend=backend)
    batch, baseline = batch_of(6), np.full(6, 0.2, np.float32)
    contrasts = np.random.default_rng(5).normal(size=(len(batch), 3))
    wanted = np.zeros(len(batch.values))
    ends = (1.0 - 0.65465367) / 2, (1.0 + 0.65465367) / 2
    for place, weight in ((0.0, 0.1), (ends[0], 0.54444444), (0.5, 0.71111111), (ends[1], 0.54444444), (1.0, 0.1)):
        weight /= 2  # the table is for -1 to 1
        at = batch.with_values((baseline + place * (batch.values - baseline)).astype(np.float32))
        found = network.gradient(network.trace(at, for_gradients=True), contrasts)
        wanted += weight * (found * (batch.values - baseline)).sum(axis=1)
    quick = quick_gradients(network, batch, baseline, contrasts)
    np.testing.assert_allclose(quick.values, wanted, atol=2e-6)
    path = run_path(network, batch, baseline)
    np.testing.assert_allclose(path.logits, network.run(batch), atol=0 if network.backend == "engine" else 2e-6)
    monkeypatch.setattr(gradients, "BLOCK_STEPS", 8)  # too little for the path at once
    assert run_path(network, batch, baseline) is None
    in_parts = quick_gradients(network, batch, baseline, contrasts)
    for one, other in zip(quick, in_parts, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("points", [3, 16])
def test_integrated_gradients_equal_those_of_captum(cell, points):
    torch = pytest.importorskip("torch", reason="needs the extra `train`")
    captum = pytest.importorskip("captum.attr", reason="captum, the independent reference, is not installed")
    from bilstm.layers import Randomness, build_model

    layers = stack(cell, dense="tanh")
    module = build_model(tuple(layers), Randomness(4)).eval()
    weights = {name: value.detach().numpy() * 2 for name, value in module.state_dict().items()}
    module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    network = Network.behind_embedding(layers, weights, backend="numpy")
    batch, baseline = batch_of(6, (30,)), np.full(6, 0.1, np.float32)

    def forward(values):  # (points, steps, size), as captum gives them
        steps = values.shape[1]
        offsets = torch.arange(len(values) + 1) * steps
        return module(Ragged(values.reshape(-1, values.shape[2]), offsets))

    method = captum.IntegratedGradients(forward)
    given = torch.tensor(batch.values)[None]
    wanted = method.attribute(
        given, torch.tensor(np.broadcast_to(baseline, batch.values.shape).copy())[None], target=1, n_steps=points,
        method="gausslegendre", internal_batch_size=None,
    )  # fmt: skip
    found = integrated_gradients(network, batch, baseline, np.array([[0.0, 1.0, 0.0]]), points=points)
    assert np.abs(found.values).max() > 1e-3
    np.testing.assert_allclose(found.values, wanted[0].sum(dim=1).numpy(), atol=1e-4)


def test_integrated_gradients_take_points_until_the_sum_is_right():
    network, _ = network_of(stack("lstm"), scale=0.6)
    batch, contrasts = batch_of(6), np.random.default_rng(3).normal(size=(5, 3))
    few = integrated_gradients(network, batch, np.zeros(6, np.float32), contrasts, points=1)
    found = integrated_gradients(network, batch, np.zeros(6, np.float32), contrasts)
    bound = np.maximum(GAP_SHARE * np.abs(found.score - found.baseline_score), GAP_SMALL)
    assert (found.gap <= bound).all()
    assert few.gap.max() > bound.max()
    sums = [found.values[batch.offsets[row] : batch.offsets[row + 1]].sum() for row in range(5)]
    np.testing.assert_allclose(np.abs(sums - (found.score - found.baseline_score)), found.gap, atol=1e-9)


def test_gradient_times_input_of_a_linear_network_is_exact():
    layers = [d.Pooling(6, ("mean",)), d.Linear(6, 3)]
    network, _ = network_of(layers)
    found = gradient_times_input(network, batch_of(6), np.ones(6, np.float32), np.eye(3)[[0, 1, 2, 0, 1]])
    assert found.gap.max() < 1e-6


# ---- relevance ----


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(
    ("merge", "kinds", "convolution"),
    [("concat", ("max", "mean"), False), ("concat", ("last",), True), ("sum", ("attention",), False),
     ("ave", ("max", "mean"), True)],
)  # fmt: skip
def test_relevance_is_conserved(cell, merge, kinds, convolution):
    network, _ = network_of(stack(cell, merge, kinds, layers=2, convolution=convolution))
    contrasts = np.random.default_rng(3).normal(size=(5, 3))
    batch = batch_of(6)
    found = relevance(network, batch, contrasts)
    sums = np.array([found.values[batch.offsets[row] : batch.offsets[row + 1]].sum() for row in range(5)])
    score = (network.run(batch) * contrasts).sum(axis=1)
    np.testing.assert_allclose(sums + found.baseline_score, score, atol=1e-3)
    assert np.abs(sums).max() > 1e-2
    assert found.gap.max() < 1e-3


def test_relevance_of_an_lstm_is_that_of_the_rules_written_out():
    """Arras et al. 2017 for one direction, unit by unit, in Python floats."""
    layers = [d.Recurrent("lstm", 2, 2, bidirectional=False), d.Pooling(2, ("last",)), d.Linear(2, 1)]
    network, weights = network_of(layers, scale=0.8)
    w = {name.split(".")[-1]: value.astype(float) for name, value in weights.items() if ".0." in name}
    out, out_bias = (weights[f"layers.2.{name}"].astype(float) for name in ("weight", "bias"))
    batch = batch_of(2, (3,))
    x = batch.values.astype(float)
    h, c, seen = np.zeros(2), np.zeros(2), []
    for t in range(3):
        a = w["weight_ih_l0"] @ x[t] + w["bias_ih_l0"] + w["weight_hh_l0"] @ h + w["bias_hh_l0"]
        i, f, g, o = 1 / (1 + np.exp(-a[:2])), 1 / (1 + np.exp(-a[2:4])), np.tanh(a[4:6]), 1 / (1 + np.exp(-a[6:]))
        new = f * c + i * g
        seen.append((i, f, g, a[4:6], c, new, h))
        c, h = new, o * np.tanh(new)
    e = 1e-3

    def stable(value):
        return value + e * (1 if value >= 0 else -1)

    z = float(out[0] @ h + out_bias[0])
    r_h = [out[0][k] * h[k] / stable(z) * z for k in range(2)]
    r_c, r_x = [0.0, 0.0], [0.0, 0.0, 0.0]
    for t in (2, 1, 0):
        i, f, g, a_g, before, now, h_before = seen[t]
        r_c = [r_c[k] + r_h[k] for k in range(2)]
        r_g = [i[k] * g[k] / stable(now[k]) * r_c[k] for k in range(2)]
        r_h = [
            sum(w["weight_hh_l0"][4 + k][j] * h_before[j] / stable(a_g[k]) * r_g[k] for k in range(2)) for j in range(2)
        ]
        r_x[t] = sum(
            w["weight_ih_l0"][4 + k][j] * x[t][j] / stable(a_g[k]) * r_g[k] for k in range(2) for j in range(2)
        )
        r_c = [f[k] * before[k] / stable(now[k]) * r_c[k] for k in range(2)]
    np.testing.assert_allclose(relevance(network, batch, np.ones((1, 1))).values, r_x, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "place"),
    [
        (stack("rnn"), "a plain RNN"),
        (stack("lstm", "mul"), "directions that are multiplied"),
        (stack("lstm", dense="sigmoid"), "a sigmoid between layers"),
    ],
)
def test_relevance_refuses_what_has_no_rule(layers, place):
    network, _ = network_of(layers)
    with pytest.raises(UsageError, match=f"no rule for {place}"):
        relevance(network, batch_of(6), np.ones((5, 3)))


# ---- contextual decomposition ----


def decomposed_by_hand(x, start, stop, w, suffix, is_backward):
    """Murdoch et al. 2018, section 3.2, both parts, in float64; returns (steps, hidden) of each in the text's order."""

    def two_orders(act, a, b, bias):
        first = (act(a + bias) - act(bias) + act(a + b + bias) - act(b + bias)) / 2
        second = (act(b + bias) - act(bias) + act(a + b + bias) - act(a + bias)) / 2
        return first, second, act(bias)

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    n, size = len(x), w[f"weight_hh_l0{suffix}"].shape[1]
    rel_h, irr_h, rel_c, irr_c = (np.zeros(size) for _ in range(4))
    rel, irr = np.zeros((n, size)), np.zeros((n, size))
    bias = w[f"bias_ih_l0{suffix}"] + w[f"bias_hh_l0{suffix}"]
    for t in range(n - 1, -1, -1) if is_backward else range(n):
        inside = start <= t < stop
        from_x = w[f"weight_ih_l0{suffix}"] @ x[t]
        a = w[f"weight_hh_l0{suffix}"] @ rel_h + (from_x if inside else 0)
        b = w[f"weight_hh_l0{suffix}"] @ irr_h + (0 if inside else from_x)
        gate = [slice(k * size, (k + 1) * size) for k in range(4)]
        i_a, i_b, i_0 = two_orders(sigmoid, a[gate[0]], b[gate[0]], bias[gate[0]])
        f_a, f_b, f_0 = two_orders(sigmoid, a[gate[1]], b[gate[1]], bias[gate[1]])
        g_a, g_b, g_0 = two_orders(np.tanh, a[gate[2]], b[gate[2]], bias[gate[2]])
        o = sigmoid(a[gate[3]] + b[gate[3]] + bias[gate[3]])
        new_rel = i_a * (g_a + g_0) + i_0 * g_a + (f_a + f_0) * rel_c
        new_irr = i_b * (g_a + g_b + g_0) + (i_a + i_0) * g_b + (f_a + f_b + f_0) * irr_c + f_b * rel_c
        if inside:
            new_rel = new_rel + i_0 * g_0
        else:
            new_irr = new_irr + i_0 * g_0
        rel_c, irr_c = new_rel, new_irr
        rel_h = o * (np.tanh(rel_c) + np.tanh(rel_c + irr_c) - np.tanh(irr_c)) / 2
        irr_h = o * (np.tanh(irr_c) + np.tanh(rel_c + irr_c) - np.tanh(rel_c)) / 2
        rel[t], irr[t] = rel_h, irr_h
    return rel, irr


@pytest.mark.parametrize("dense", ["relu", "tanh"])
@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_decomposition_is_that_of_the_paper_and_adds_up(dense, backend):
    layers = stack("lstm", kinds=("max", "mean", "last"), dense=dense)
    network, weights = network_of(layers, backend, scale=0.5)
    w = {name.split(".")[-1]: value.astype(float) for name, value in weights.items() if ".0." in name}
    batch = batch_of(6, (12, 7))
    rows, spans = np.array([0, 0, 0, 1, 1, 1]), np.array([(0, 1), (4, 7), (0, 12), (6, 7), (2, 4), (3, 3)])
    relevant, irrelevant = decompose(network, batch, rows, spans)
    np.testing.assert_allclose(relevant + irrelevant, network.run(batch)[rows], atol=1e-4)
    np.testing.assert_allclose(relevant[-1], 0, atol=1e-6)  # an empty phrase
    act = {"relu": lambda v: np.maximum(v, 0), "tanh": np.tanh}[dense]
    for row, (start, stop), found in zip(rows, spans, relevant, strict=True):
        x = batch.values[batch.offsets[row] : batch.offsets[row + 1]].astype(float)
        parts = [decomposed_by_hand(x, start, stop, w, *side) for side in (("", False), ("_reverse", True))]
        pooled = []
        for part in (0, 1):
            rel = np.concatenate([one[part] for one in parts], axis=1)
            whole = np.concatenate([one[0] + one[1] for one in parts], axis=1)
            last = np.concatenate([parts[0][part][-1], parts[1][part][0]])
            top = rel[whole.argmax(axis=0), np.arange(rel.shape[1])]
            pooled.append(np.concatenate([top, rel.mean(axis=0), last]))
        first, bias = (weights[f"layers.2.{name}"].astype(float) for name in ("weight", "bias"))
        a, b = first @ pooled[0], first @ pooled[1]
        share = (act(a + bias) - act(bias) + act(a + b + bias) - act(b + bias)) / 2
        np.testing.assert_allclose(found, weights["layers.3.weight"] @ share, atol=1e-4)


@pytest.mark.parametrize("layers", [stack("gru"), stack("lstm", layers=2), stack("lstm", kinds=("attention",))])
def test_decomposition_refuses_other_networks(layers):
    network, _ = network_of(layers)
    with pytest.raises(UsageError, match="defined for one LSTM layer"):
        decompose(network, batch_of(6), np.array([1]), np.array([(0, 1)]))


# ---- occlusion ----


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("kinds", [("max", "mean"), ("last", "max")])
@pytest.mark.parametrize("agreement", [0.0, occlusion.AGREEMENT])
def test_states_reused_give_what_running_anew_gives(backend, cell, kinds, agreement):
    network, _ = network_of(stack(cell, kinds=kinds), backend)
    assert occlusion.can_reuse_states(network)
    cuts = [
        (row, start, start + length)
        for row, whole in enumerate(LENGTHS)
        for length in (1, 2, 5, whole)
        for start in range(whole - length + 1)
        if length
    ]
    rows, spans = np.array(cuts)[:, 0], np.array(cuts)[:, 1:]
    found = occlusion.logits_without(network, batch_of(6), rows, spans, agreement=agreement)
    # float32 rounding: the states are the same but for the order in which products are added up
    np.testing.assert_allclose(found, occlusion.run_without(network, batch_of(6), rows, spans), atol=5e-6)


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("kinds", [("mean",), ("max", "mean"), ("last",)])
def test_near_occlusion_is_near(backend, cell, kinds):
    """States that differ by at most NEAR_AGREEMENT, rounded to bfloat16 (2^-9 of each), through small weights."""
    network, _ = network_of(stack(cell, kinds=kinds, dense="tanh"), backend)
    batch = batch_of(6, (0, 1, 2, 150, 90))
    rows, starts = np.repeat([3, 4], [150, 90]), np.concatenate([np.arange(150), np.arange(90)])
    spans = np.stack([starts, starts + 1], axis=1)
    found = occlusion.logits_without(network, batch, rows, spans, agreement=occlusion.NEAR_AGREEMENT, precision="auto")
    exact = occlusion.run_without(network, batch, rows, spans)
    assert np.abs(found - exact).max() < 0.02


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
@pytest.mark.parametrize("variant", [{}, {"cell": "gru", "layers": 2, "joined": False}, {"pooling": ("attention",)}])
def test_occlusion_of_words_is_leaving_them_out_of_the_text(kind, variant):
    model = text_model(kind, **variant)
    text = "w1 good w2 not bad ! w3 w1 good 7/10 w99 not bad"
    words = text.split()
    found = explain(model, text, "occlusion", target="all")

    def scores(shortened):
        logits = model.logits([shortened])[0].astype(float)
        if kind == "regression":
            return logits * model.scale + model.shift
        if kind == "binary":
            return np.array([-logits[0], logits[0]]) / model.temperature
        if kind == "multilabel":
            return logits / model.temperature
        return np.array([logits[k] - np.delete(logits, k).mean() for k in range(3)]) / model.temperature

    np.testing.assert_allclose(found.score, scores(text), atol=1e-5)
    for at in range(len(words)):
        without = scores(" ".join(words[:at] + words[at + 1 :]))
        np.testing.assert_allclose(found.attributions[at], found.score - without, atol=2e-5)


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("kinds", [("mean",), ("max", "mean"), ("last", "max")])
@pytest.mark.parametrize("merge", ["concat", "one direction"])
def test_rest_of_a_text_is_its_first_order(backend, kinds, merge):
    """What a gradient says about the rest is wrong in second order: exact for no bound, better for a smaller one."""
    recurrent = d.Recurrent("lstm", 6, 8, bidirectional=merge == "concat")
    pooling = d.Pooling(recurrent.output_size, kinds)
    layers = [recurrent, pooling, d.Linear(pooling.output_size, 5, "tanh"), d.Linear(5, 3)]
    network, _ = network_of(layers, backend, scale=0.5)
    batch = batch_of(6, (3, 0, 150))
    opened, contrasts = open_texts(network, batch), np.random.default_rng(8).normal(size=(2, 3))
    np.testing.assert_allclose(opened.logits, network.run(batch), atol=0 if network.backend == "engine" else 2e-6)
    starts = np.arange(150)
    cuts = np.stack([starts, np.minimum(starts + 1 + starts % 2, 150)], axis=1)
    exact = occlusion.run_without(network, batch, np.full(150, 2), cuts) @ contrasts.T
    errors = [
        np.abs(scores_nearly_without(opened, 2, contrasts, cuts, bound=bound) - exact) for bound in (np.inf, 0.01, 0.0)
    ]
    zeroth = np.abs(exact - opened.logits[2] @ contrasts.T)
    assert np.median(errors[0]) < 0.1 * np.median(zeroth)  # eight steps and a gradient say nearly all
    rounding = 0.01 if backend == "auto" else 2e-5  # bfloat16 where AMX runs
    assert errors[1].max() < 0.01 + rounding
    assert errors[2].max() < rounding


def test_members_of_an_ensemble_say_nearly_their_mean():
    layers = stack("lstm", dense="tanh")
    members = [network_of(layers, seed=seed)[0] for seed in (1, 2)]
    both = AveragedNetwork(members)
    own = [batch_of(6, (70,), seed) for seed in (3, 4)]
    joined = own[0].with_values(np.concatenate([one.values for one in own], axis=1))
    contrasts, cuts = np.random.default_rng(8).normal(size=(2, 3)), np.array([(0, 1), (30, 32), (69, 70)])
    opened = open_texts(both, joined)
    np.testing.assert_allclose(opened.logits, both.run(joined), atol=1e-6)
    parts = [
        scores_nearly_without(open_texts(member, one), 0, contrasts, cuts)
        for member, one in zip(members, own, strict=True)
    ]
    np.testing.assert_allclose(scores_nearly_without(opened, 0, contrasts, cuts), np.mean(parts, axis=0), atol=1e-9)


def test_near_occlusion_of_a_text_model_is_near():
    """Long texts by gradients of the rest, short ones exactly; several classes at once."""
    texts = [" ".join(some_texts(12, seed)) for seed in (1, 2)] + some_texts(3)
    for kind in ("binary", "multiclass"):
        subject = subject_of(model := text_model(kind))
        assert max(len(one) for one in subject.words(texts)) > 2 * FEWEST_STEPS
        near, exact = (explain(model, texts, method, target="all") for method in ("near-occlusion", "occlusion"))
        for one, other in zip(near, exact, strict=True):
            assert one.attributions.shape == other.attributions.shape
            tolerance = 1e-6 if len(one.tokens) < FEWEST_STEPS else 0.02
            np.testing.assert_allclose(one.attributions, other.attributions, atol=tolerance)
            assert len(one.tokens) >= FEWEST_STEPS or np.abs(other.attributions).max() > 0.1


# ---- linear part ----


def test_shares_of_words_add_up_to_the_margin():
    linear, weights = linear_models(3), (0.3, 0.9)
    for text in [*some_texts(10), "nothing known here", ""]:
        words = WordTokenizer().tokens(text)
        margin = linear.margins([words])[0] @ weights
        intercepts = sum(weight * head.intercepts for weight, head in zip(weights, linear.heads, strict=True))
        shares = word_shares(linear, weights, words)
        np.testing.assert_allclose(shares.sum(axis=0) + intercepts, margin, atol=1e-9)
        whole = phrase_values(linear, weights, occurrences_of(linear, words), np.array([(0, len(words))]))[0]
        np.testing.assert_allclose(whole + intercepts, margin, atol=1e-9)


def test_margins_without_words_are_those_of_the_shorter_text():
    linear, weights = linear_models(2), (0.3, 0.9)
    for text in [*some_texts(8), "w1", "nothing known"]:
        words = WordTokenizer().tokens(text)
        cuts = np.array([(at, at + n) for n in (1, 2, 4, len(words)) for at in range(len(words) - n + 1)])
        whole, without = margins_without(linear, weights, words, cuts)
        wanted = linear.margins([words[:start] + words[end:] for start, end in cuts]) @ weights
        np.testing.assert_allclose(whole, linear.margins([words])[0] @ weights, atol=1e-9)
        np.testing.assert_allclose(without, wanted, atol=1e-7)


@pytest.mark.parametrize("method", ["quick-gradients", "integrated-gradients", "relevance"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_words_and_baseline_add_up_to_the_score_of_the_whole_model(method, kind):
    model = text_model(kind)
    for one in explain(model, some_texts(6, seed=5), method, target="all"):
        gap = np.abs(one.attributions.sum(axis=0) - (one.score - one.baseline_score)).max()
        assert gap == pytest.approx(one.gap, abs=1e-5)
        if method == "relevance":
            assert gap < 1e-3


def test_attention_weights_are_the_shares_of_pooling():
    model = text_model("binary", pooling=("attention",))
    one = explain(model, "w1 good w2", "attention")
    assert one.is_weights
    assert one.unit == "share"
    assert one.attributions.sum() == pytest.approx(1.0, abs=1e-6)
    hidden = subject_of(model).network.trace(subject_of(model).vectors(subject_of(model).words(["w1 good w2"])))
    np.testing.assert_allclose(
        one.attributions[:, 0] @ hidden.layers[0].outputs, hidden.layers[1].outputs[0], atol=1e-6
    )
    with pytest.raises(UsageError, match="has no attention"):
        explain(text_model(), "w1", "attention")
