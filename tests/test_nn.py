"""bilstm.nn against torch.nn: constructor, state dict, layouts, results, gradients, torch's machinery around them."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from bilstm import nn
from bilstm.data.ragged import Ragged
from bilstm.errors import ShapeError, UsageError
from bilstm.layers.engine_op import engine_can_run, prefers_bfloat16
from bilstm.nn import layouts, recurrent
from engine_cases import relative_errors

REASON = engine_can_run(torch.float32)
needs_engine = pytest.mark.skipif(REASON is not None, reason=f"the native engine does not run here: {REASON}")
BACKENDS = [pytest.param("engine", marks=needs_engine), "torch"]
KINDS = ["LSTM", "GRU", "RNN"]
LENGTHS = [6, 2, 9, 1, 4]


@pytest.fixture(autouse=True)
def _seed_and_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(11)
    yield
    torch.set_num_threads(before)


def pair(kind: str, *arguments, backend: str = "auto", **options):
    """Torch's layer and ours with the same weights."""
    theirs = getattr(torch.nn, kind)(*arguments, **options)
    ours = getattr(nn, kind)(*arguments, backend=backend, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def states_for(module, batch: int):
    shape = (module.num_layers * (2 if module.bidirectional else 1), batch, module.hidden_size)
    h_0 = torch.randn(shape)
    return (h_0, torch.randn(shape)) if module.mode == "LSTM" else h_0


def flat(state) -> list[torch.Tensor]:
    return list(state) if isinstance(state, tuple) else [state]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


def compare_gradients(theirs, ours, result_a, result_b):
    weights = [torch.randn_like(part) for part in result_a]
    for module, parts in ((theirs, result_a), (ours, result_b)):
        module.zero_grad()
        sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True)).backward()
    for (name, a), b in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


# -- construction ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts_interchange(kind):
    options = {"num_layers": 2, "bidirectional": True, "bias": kind != "GRU"}
    theirs, ours = pair(kind, 3, 4, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1)
    theirs.load_state_dict(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, torch.nn.RNNBase)


def test_constructors_take_torchs_positions():
    assert repr(nn.LSTM(3, 4, 2, False, True, 0.5, True)) == repr(torch.nn.LSTM(3, 4, 2, False, True, 0.5, True))
    assert repr(nn.GRU(3, 4, 2, False, True, 0.5, True)) == repr(torch.nn.GRU(3, 4, 2, False, True, 0.5, True))
    ours, theirs = (kind(3, 4, 2, "relu", False, True, 0.5, True) for kind in (nn.RNN, torch.nn.RNN))
    assert repr(ours) == repr(theirs)
    assert (ours.mode, ours.nonlinearity) == (theirs.mode, theirs.nonlinearity)
    assert nn.LSTM(3, 4, dtype=torch.float64).weight_ih_l0.dtype == torch.float64


def test_same_seed_same_weights():
    torch.manual_seed(3)
    theirs = torch.nn.LSTM(3, 4, 2, bidirectional=True)
    torch.manual_seed(3)
    ours = nn.LSTM(3, 4, 2, bidirectional=True)
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.LSTM(3, 4, proj_size=2), "proj_size=2"),
        (lambda: nn.RNN(3, 4, nonlinearity="sigmoid"), "nonlinearity='sigmoid'"),
        (lambda: nn.GRU(3, 4, backend="cuda"), "backend='cuda'"),
        (lambda: nn.GRU(3, 4, precision="float16"), "precision='float16'"),
        (lambda: nn.GRU(3, 4, threads=0), "threads must be"),
        (lambda: nn.GRU(3, 4, threads=True), "threads must be"),
    ],
)
def test_wrong_choices_are_refused(build, message):
    with pytest.raises(UsageError, match=message):
        build()


# -- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_padded_input_without_lengths(kind, bidirectional, batch_first, with_states, backend):
    options = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": batch_first}
    theirs, ours = pair(kind, 5, 7, backend=backend, **options)
    inputs = torch.randn(3, 6, 5)
    hx = states_for(theirs, 3 if batch_first else 6) if with_states else None
    a, b = theirs(inputs, hx), ours(inputs, hx)
    close(b[0], a[0])
    for one, other in zip(flat(a[1]), flat(b[1]), strict=True):
        close(other, one)
    compare_gradients(theirs, ours, [a[0], *flat(a[1])], [b[0], *flat(b[1])])
    if not batch_first:
        b[0].view(-1, b[0].shape[2])  # as with torch, users may view the output


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_unbatched_input(kind, backend):
    theirs, ours = pair(kind, 5, 7, bidirectional=True, backend=backend)
    inputs = torch.randn(6, 5)
    hx = states_for(theirs, 1)
    hx = tuple(s[:, 0] for s in hx) if kind == "LSTM" else hx[:, 0]
    for state in (None, hx):
        a, b = theirs(inputs, state), ours(inputs, state)
        close(b[0], a[0])
        for one, other in zip(flat(a[1]), flat(b[1]), strict=True):
            close(other, one)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_input(kind, with_states, is_sorted, backend):
    theirs, ours = pair(kind, 5, 7, num_layers=2, bidirectional=True, backend=backend)
    lengths = sorted(LENGTHS, reverse=True) if is_sorted else LENGTHS
    packed = pack_padded_sequence(torch.randn(9, 5, 5), lengths, enforce_sorted=is_sorted)
    hx = states_for(theirs, 5) if with_states else None
    a, b = theirs(packed, hx), ours(packed, hx)
    assert isinstance(b[0], PackedSequence)
    close(b[0].data, a[0].data)
    for one, other in zip((*a[0][1:], *flat(a[1])), (*b[0][1:], *flat(b[1])), strict=True):
        assert one is other is None or close(other, one) is None
    compare_gradients(theirs, ours, [a[0].data, *flat(a[1])], [b[0].data, *flat(b[1])])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_padded_with_lengths_packed_and_ragged_are_equal(kind, backend):
    ours = getattr(nn, kind)(5, 7, 2, bidirectional=True, batch_first=True, backend=backend)
    sequences = [torch.randn(length, 5) for length in LENGTHS]
    hx = states_for(ours, 5)
    padded = torch.full((5, 11, 5), float("nan"))  # padding is never read; wider than the longest sequence
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    outputs, state = ours(padded, hx, lengths=LENGTHS)
    assert torch.isfinite(outputs).all()
    packed_outputs, packed_state = ours(pack_sequence(sequences, enforce_sorted=False), hx)
    again, _ = pad_packed_sequence(packed_outputs, batch_first=True, total_length=11)
    assert torch.equal(outputs, again)
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    ragged_outputs, ragged_state = ours(Ragged(torch.cat(sequences), offsets), hx)
    assert isinstance(ragged_outputs, Ragged)
    for row, sequence in enumerate(sequences):
        assert torch.equal(ragged_outputs[row], outputs[row, : len(sequence)])
        assert not outputs[row, len(sequence) :].any()
    for one, two, three in zip(flat(state), flat(packed_state), flat(ragged_state), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [[0, 3, 0, 5], [0, 0, 0, 0]])
@pytest.mark.parametrize("kind", KINDS)
def test_empty_sequences_keep_their_initial_state(kind, lengths, backend):
    theirs, ours = pair(kind, 5, 7, 2, bidirectional=True, batch_first=True, backend=backend)
    inputs, hx = torch.randn(4, 6, 5), states_for(theirs, 4)
    outputs, state = ours(inputs, hx, lengths=torch.tensor(lengths))
    for row, length in enumerate(lengths):
        for got, initial in zip(flat(state), flat(hx), strict=True):
            if length == 0:
                assert torch.equal(got[:, row], initial[:, row])
        if length:
            alone = tuple(s[:, [row]] for s in hx) if kind == "LSTM" else hx[:, [row]]
            close(outputs[[row], :length], theirs(inputs[[row], :length], alone)[0])
    zeros = flat(ours(inputs, lengths=[0] * 4)[1])
    assert not any(state.any() for state in zeros)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_steps_and_no_sequences(backend):
    ours = nn.LSTM(5, 7, bidirectional=True, batch_first=True, backend=backend)
    outputs, (h_n, _) = ours(torch.zeros(3, 0, 5))
    assert outputs.shape == (3, 0, 14)
    assert not h_n.any()
    outputs, (h_n, c_n) = ours(Ragged(torch.zeros(0, 5), torch.zeros(1, dtype=torch.int64)))
    assert outputs.values.shape == (0, 14)
    assert h_n.shape == c_n.shape == (2, 0, 7)


@needs_engine
@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    num_layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
)
def test_any_shape(kind, lengths, sizes, num_layers, bidirectional, bias):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias}
    theirs, ours = pair(kind, *sizes, backend="engine", **options)
    packed = pack_sequence([torch.randn(length, sizes[0]) for length in lengths], enforce_sorted=False)
    a, b = theirs(packed), ours(packed)
    close(b[0].data, a[0].data)
    compare_gradients(theirs, ours, [a[0].data, *flat(a[1])], [b[0].data, *flat(b[1])])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_states_carry_over(kind, backend):
    ours = getattr(nn, kind)(5, 7, 2, batch_first=True, backend=backend)
    inputs = torch.randn(3, 10, 5)
    whole, last = ours(inputs)
    first, state = ours(inputs[:, :4])
    second, state = ours(inputs[:, 4:], state)
    close(torch.cat([first, second], 1), whole)
    for one, other in zip(flat(state), flat(last), strict=True):
        close(one, other)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m(torch.zeros(2, 3, 4)), ShapeError, "5 features"),
        (lambda m: m(torch.zeros(2, 3, 4, 5)), ShapeError, "2 or 3 axes"),
        (lambda m: m([[1.0]]), UsageError, "must be a Tensor"),
        (lambda m: m(torch.zeros(2, 3, 5), lengths=[3]), ShapeError, r"shape \(2,\)"),
        (lambda m: m(torch.zeros(2, 3, 5), lengths=[3, 4]), ShapeError, r"lengths\[1\] = 4 is not in 0..3"),
        (lambda m: m(torch.zeros(2, 3, 5), lengths=[-1, 3]), ShapeError, r"lengths\[0\] = -1"),
        (lambda m: m(torch.zeros(2, 3, 5), lengths=[1.5, 3]), ShapeError, "integers"),
        (lambda m: m(torch.zeros(3, 5), lengths=[3]), UsageError, "padded batch of three axes"),
        (lambda m: m(torch.zeros(2, 3, 5), torch.zeros(2, 2, 7)), UsageError, "pair"),
        (
            lambda m: m(torch.zeros(2, 3, 5), (torch.zeros(2, 2, 7),) * 2),
            ShapeError,
            r"h_0 must have shape \(1, 2, 7\)",
        ),
        (lambda m: m(torch.zeros(3, 5), (torch.zeros(1, 1, 7),) * 2), ShapeError, r"h_0 must have shape \(1, 7\)"),
    ],
)
def test_wrong_input_is_an_error(call, error, message):
    with pytest.raises(error, match=message):
        call(nn.LSTM(5, 7, batch_first=True))


# -- what runs ------------------------------------------------------------------------------------------------------


def test_float64_runs_torchs_own_function():
    theirs, ours = pair("LSTM", 5, 7, bidirectional=True, dtype=torch.float64)
    inputs = torch.randn(4, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(inputs)[0], theirs(inputs)[0], rtol=1e-12, atol=1e-12)
    packed = pack_padded_sequence(inputs, [4, 2, 1])
    assert torch.equal(ours(packed)[0].data, theirs(packed)[0].data)


def test_explicit_engine_that_cannot_run_is_an_error():
    ours = nn.GRU(5, 7, dtype=torch.float64, backend="engine")
    with pytest.raises(UsageError, match="backend='engine' cannot run here"):
        ours(torch.zeros(4, 3, 5, dtype=torch.float64))
    with pytest.raises(UsageError, match="not on meta"):
        nn.GRU(5, 7, device="meta", backend="engine")(torch.zeros(4, 3, 5, device="meta"))


@needs_engine
def test_auto_runs_the_engine_for_float32(monkeypatch):
    calls = []
    original = recurrent.recurrent_layer
    monkeypatch.setattr(
        recurrent, "recurrent_layer", lambda *args, **kw: calls.append(kw["precision"]) or original(*args, **kw)
    )
    low = "bfloat16" if prefers_bfloat16() else "float32"
    ours = nn.LSTM(5, 7, 2, batch_first=True)
    inputs = torch.randn(2, 3, 5)
    ours(inputs)
    assert calls == ["float32"] * 2
    with torch.autocast("cpu", torch.bfloat16):
        outputs, _ = ours(inputs)
    assert calls[2:] == [low] * 2
    assert outputs.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        outputs, (h_n, _) = ours(inputs.bfloat16())  # what a Linear before it gives under autocast
    assert outputs.dtype == h_n.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        ours(inputs)
    ours.precision = "float32"
    with torch.autocast("cpu", torch.bfloat16):
        ours(inputs)
    assert calls[6:] == ["float32"] * 4
    nn.LSTM(5, 7, dtype=torch.bfloat16)(torch.randn(2, 3, 5).bfloat16())
    assert calls[10:] == [low]


@needs_engine
def test_autocast_is_close_and_trains():
    theirs, ours = pair("LSTM", 32, 48, bidirectional=True)
    inputs = torch.randn(20, 4, 32)
    expected = theirs(inputs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = ours(inputs)[0]
    assert relative_errors([outputs], [expected.double()])[0] < 0.01
    outputs.square().sum().backward()
    expected.square().sum().backward()
    found = [parameter.grad for parameter in ours.parameters()]
    assert max(relative_errors(found, [parameter.grad.double() for parameter in theirs.parameters()])) < 0.02


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_equals_cpu_and_has_gradients_in_eval_mode(kind):
    on_cpu = getattr(nn, kind)(5, 7, 2, bidirectional=True, batch_first=True, dropout=0.3, backend="torch").eval()
    on_cuda = copy.deepcopy(on_cpu).cuda()
    on_cuda.backend = "auto"
    inputs = torch.randn(4, 6, 5)
    results = []
    for module, values in ((on_cpu, inputs.clone()), (on_cuda, inputs.cuda())):
        values.requires_grad_()
        outputs, state = module(values, lengths=[6, 0, 3, 4])
        sum(part.square().sum() for part in (outputs, *flat(state))).backward()
        results.append([outputs, *flat(state), values.grad, *(p.grad for p in module.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-3, atol=1e-4)


# -- torch's machinery ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_between_layers(backend):
    ours = nn.LSTM(5, 7, 2, dropout=0.5, batch_first=True, backend=backend)
    inputs = torch.randn(2, 3, 5)
    torch.manual_seed(1)
    first = ours(inputs)[0]
    assert not torch.equal(ours(inputs)[0], first)
    torch.manual_seed(1)
    assert torch.equal(ours(inputs)[0], first)
    ours.eval()
    assert torch.equal(ours(inputs)[0], ours(inputs)[0])
    plain = torch.nn.LSTM(5, 7, 2, batch_first=True)
    plain.load_state_dict(ours.state_dict())
    close(ours(inputs)[0], plain(inputs)[0])
    everything = nn.LSTM(5, 7, 2, dropout=1.0, batch_first=True, backend=backend)
    assert torch.equal(everything(inputs)[0], everything(2 * inputs)[0])  # the second layer sees zeros


def test_gradients_exist_in_eval_mode():
    ours = nn.GRU(5, 7).eval()
    inputs = torch.randn(3, 2, 5, requires_grad=True)
    ours(inputs)[0].sum().backward()
    assert inputs.grad.abs().sum() > 0


def test_deepcopy_and_saving():
    ours = nn.LSTM(5, 7, precision="float32", threads=2, backend="auto")
    inputs = torch.randn(3, 2, 5)
    expected = ours(inputs)[0]
    other = copy.deepcopy(ours)
    assert (other.precision, other.threads) == ("float32", 2)
    assert torch.equal(other(inputs)[0], expected)
    with torch.no_grad():
        other.weight_hh_l0.zero_()
    assert torch.equal(ours(inputs)[0], expected)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(inputs)[0], expected)


def test_replaced_parameters_are_used():
    ours = nn.GRU(5, 7)
    inputs = torch.randn(3, 2, 5)
    ours.weight_ih_l0 = torch.nn.Parameter(torch.zeros_like(ours.weight_ih_l0))
    assert torch.equal(ours(inputs)[0], ours(2 * inputs)[0])
    shared = {name: torch.zeros_like(p) for name, p in ours.named_parameters()}
    outputs, _ = torch.func.functional_call(ours, shared, (inputs,))
    assert not outputs.any()


@needs_engine
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_without_graph_break(kind):
    torch._dynamo.reset()
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), getattr(nn, kind)(5, 7, 2, bidirectional=True))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for steps in (3, 6):
        inputs = torch.randn(steps, 2, 4)
        expected, _ = model(inputs)
        expected.sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        found, _ = compiled(inputs)
        found.sum().backward()
        close(found, expected)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)
        model.zero_grad()


@needs_engine
def test_compiles_with_packed_and_lengths():
    """Data-dependent sizes may break the graph; the results stay."""
    torch._dynamo.reset()
    ours = nn.LSTM(5, 7, bidirectional=True, batch_first=True)
    compiled = torch.compile(ours, backend="aot_eager")
    inputs = torch.randn(3, 6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on graph breaks
        found = compiled(inputs, lengths=torch.tensor([2, 6, 3]))[0]
    close(found, ours(inputs, lengths=[2, 6, 3])[0])


def _run_layer(module):
    return module(torch.ones(4, 2, 5))[0].detach().clone()


class _Items(torch.utils.data.Dataset):
    def __init__(self, module):
        self.module = module

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return _run_layer(self.module)


def test_runs_in_forked_loader_workers():
    ours = nn.LSTM(5, 7, bidirectional=True, threads=2)
    expected = _run_layer(ours)
    loader = torch.utils.data.DataLoader(_Items(ours), batch_size=None, num_workers=2, multiprocessing_context="fork")
    found = list(loader)
    assert len(found) == 4
    assert all(torch.equal(one, expected) for one in found)


@needs_engine
@pytest.mark.parametrize("kind", KINDS)
def test_thread_count_changes_no_bit(kind):
    ours = getattr(nn, kind)(9, 17, 2, bidirectional=True, backend="engine")
    packed = pack_sequence([torch.randn(length, 9) for length in LENGTHS * 6], enforce_sorted=False)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        ours.zero_grad()
        outputs, _ = ours(packed)
        outputs.data.sin().sum().backward()
        results.append([outputs.data.detach(), *(p.grad.clone() for p in ours.parameters())])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_training_goes_as_with_torch():
    theirs, ours = pair("LSTM", 5, 7, bidirectional=True, batch_first=True)
    inputs, targets = torch.randn(8, 10, 5), torch.randn(8, 14)
    losses = []
    for module in (theirs, ours):
        optimizer = torch.optim.Adam(module.parameters(), 0.02)
        for _ in range(20):
            optimizer.zero_grad()
            loss = (module(inputs)[0].mean(1) - targets).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


# -- accelerate -----------------------------------------------------------------------------------------------------


class _Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(5, 7, 2, bidirectional=True, batch_first=True)
        self.more = torch.nn.ModuleList([torch.nn.GRU(14, 6, batch_first=True), torch.nn.RNN(6, 3, batch_first=True)])

    def forward(self, inputs):
        outputs, _ = self.lstm(inputs)
        for layer in self.more:
            outputs, _ = layer(outputs)
        return outputs


def test_accelerate_replaces_in_place():
    model = _Model()
    inputs = torch.randn(3, 4, 5)
    expected = model(inputs)
    names, parameters = list(model.state_dict()), list(model.parameters())
    layer, seen = model.lstm, []
    layer.register_forward_hook(lambda *_: seen.append(1))
    assert nn.accelerate(model, precision="float32", threads=1) is model
    assert [type(module) for module in (model.lstm, *model.more)] == [nn.LSTM, nn.GRU, nn.RNN]
    assert model.lstm is layer
    assert (layer.precision, layer.threads) == ("float32", 1)
    assert list(model.state_dict()) == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    close(model(inputs), expected)
    assert seen == [1]
    model.load_state_dict(_Model().state_dict())
    nn.accelerate(model, backend="torch")  # once more, with another choice
    assert model.lstm.backend == "torch"


def test_accelerate_a_layer_itself():
    layer = torch.nn.RNN(3, 4, nonlinearity="relu")
    expected = layer(torch.ones(2, 1, 3))[0]
    assert type(nn.accelerate(layer)) is nn.RNN
    close(layer(torch.ones(2, 1, 3))[0], expected)
    assert not hasattr(layer, "_torch")


def test_accelerate_refuses_and_changes_nothing():
    model = torch.nn.ModuleDict({"a": torch.nn.LSTM(3, 4), "b": torch.nn.LSTM(3, 4, proj_size=2)})
    with pytest.raises(UsageError, match="layer 'b' has proj_size=2"):
        nn.accelerate(model)
    assert type(model["a"]) is torch.nn.LSTM
    with pytest.raises(UsageError, match="Linear has no torch"):
        nn.accelerate(torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="backend='fast'"):
        nn.accelerate(model, backend="fast")


def test_accelerate_leaves_subclasses_and_says_so():
    class Special(torch.nn.LSTM):
        pass

    model = torch.nn.ModuleList([Special(3, 4), torch.nn.GRU(3, 4)])
    with pytest.warns(UserWarning, match="layer '0' is a Special, a subclass: left as it is"):
        nn.accelerate(model)
    assert [type(module) for module in model] == [Special, nn.GRU]


# -- layouts alone --------------------------------------------------------------------------------------------------


def test_packed_rows_by_hand():
    # sequences a0 a1 a2, b0, packed as a0 b0 a1 a2
    offsets, rows, inverse = layouts.packed_rows(torch.tensor([2, 1, 1]))
    assert offsets.tolist() == [0, 3, 4]
    assert rows.tolist() == [0, 3, 1, 2]
    assert inverse.tolist() == [0, 2, 3, 1]
    assert layouts.batch_sizes_of(torch.tensor([3, 1])).tolist() == [2, 1, 1]


def test_padded_rows_by_hand():
    assert layouts.padded_rows(torch.tensor([2, 0, 3]), 4).tolist() == [0, 1, 8, 9, 10]


def test_layout_gradients():
    values = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([2, 0, 3, 1])
    inverse = rows.argsort()
    assert torch.autograd.gradcheck(lambda v: layouts.take_permuted(v, rows, inverse), (values,))
    assert torch.autograd.gradcheck(lambda v: layouts.place_rows(v, rows * 2, 9), (values,))
    assert torch.autograd.gradgradcheck(lambda v: layouts.take_permuted(v, rows, inverse), (values,))
