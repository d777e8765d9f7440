"""Random, valid model descriptions for hypothesis."""

from hypothesis import strategies as st

from bilstm import description

VOCABULARY = 11
sizes = st.integers(1, 6)
rates = st.sampled_from([0.0, 0.25, 0.5])
activations = st.sampled_from(["none", "relu", "tanh", "sigmoid"])


@st.composite
def step_layers(draw, features: int, *, last: bool) -> description.Layer:
    """Draw one layer that acts on steps of `features` numbers; directions kept apart only just before pooling."""
    kind = draw(st.sampled_from(["dropout", "convolution", "recurrent", "linear"]))
    if kind == "dropout":
        return description.Dropout(draw(rates), draw(st.booleans()))
    if kind == "convolution":
        return description.Convolution(features, draw(sizes), draw(st.integers(1, 5)), draw(activations))
    if kind == "linear":
        return description.Linear(features, draw(sizes), draw(activations))
    merges = ["concat", "sum", "mul", "ave"] + ([None] if last else [])
    return description.Recurrent(
        draw(st.sampled_from(["lstm", "gru", "rnn"])),
        features,
        draw(sizes),
        draw(st.integers(1, 2)),
        draw(st.booleans()),
        draw(st.sampled_from(merges)),
        draw(rates),
        draw(rates),
        draw(rates),
        draw(st.sampled_from(["tanh", "relu"])),
    )


@st.composite
def layer_stacks(draw, *, pooled: bool | None = None) -> tuple[description.Layer, ...]:
    """Draw a model over token ids; `pooled` asks for one with or without a pooling layer."""
    size = draw(sizes)
    layers: list[description.Layer] = [description.Embedding(VOCABULARY, size)]
    if draw(st.booleans()):
        layers.insert(0, description.WordDropout(draw(rates), draw(st.integers(0, VOCABULARY - 1))))
    has_pooling = draw(st.booleans()) if pooled is None else pooled
    count = draw(st.integers(0, 3))
    for number in range(count):
        layer = draw(step_layers(size, last=has_pooling and number == count - 1))
        size = getattr(layer, "output_size", size)
        layers.append(layer)
    if has_pooling:
        kinds = draw(st.lists(st.sampled_from(["last", "max", "mean", "attention"]), min_size=1, max_size=4))
        layers.append(description.Pooling(size, tuple(kinds)))
        size = layers[-1].output_size
        if draw(st.booleans()):
            layers.append(description.Dropout(draw(rates), draw(st.booleans())))
    layers.append(description.Linear(size, draw(sizes), draw(activations)))
    return tuple(layers)


id_batches = st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=9), max_size=6)
