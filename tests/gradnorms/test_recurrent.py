"""Recurrent layers from parts: torch's outputs, and norms of a plain backward pass per sample."""

import pytest
import torch
import torch.nn as nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from impsamp.gradnorms import choose_method, grad_norms
from impsamp.gradnorms.ghost import Catch
from impsamp.gradnorms.recurrent import steps_of, weights_of
from tests.gradnorms.helpers import backward_norms, close, squared

LAYERS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k),
}
SETTINGS = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True, "num_layers": 2},
    "no bias": {"bias": False},
}


class Reader(nn.Module):
    "A recurrent layer between an embedding and a read-out of all rows and of the last states."

    def __init__(self, kind, time_first=False, **settings):
        super().__init__()
        self.time_first = time_first
        self.e = nn.Embedding(11, 3)
        self.r = LAYERS[kind](3, 4, batch_first=not time_first, **settings)
        self.out = nn.LazyLinear(2)

    def forward(self, ids):
        x = self.e(ids)
        rows, last = self.r(x.transpose(0, 1) if self.time_first else x)
        rows = rows.transpose(0, 1) if self.time_first else rows
        last = last[0] if isinstance(last, tuple) else last
        return torch.cat([self.out(rows).sum(1).sin(), last.transpose(0, 1).flatten(1)], 1)


class Packed(Reader):
    "The same over sentences of their own lengths, sorted inside."

    def forward(self, ids, lengths):
        x = self.e(ids)
        packed = pack_padded_sequence(x, lengths.tolist(), batch_first=True, enforce_sorted=False)
        rows, last = self.r(packed)
        last = last[0] if isinstance(last, tuple) else last
        padded, _ = pad_packed_sequence(rows, batch_first=True, total_length=ids.shape[1])
        return torch.cat([self.out(padded).sum(1).sin(), last.transpose(0, 1).flatten(1)], 1)


def inputs(make, ids, lengths):
    return (ids, lengths) if make is Packed else (ids,)


def reading(make, kind, **settings):
    "(model, ids (5, 6), lengths, y) in float64."
    torch.manual_seed(0)
    model = make(kind, **settings).double()
    ids = torch.randint(0, 11, (5, 6))
    lengths = torch.tensor([3, 6, 1, 4, 6])
    model(*inputs(make, ids[:1], lengths[:1]))
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model, ids, lengths, torch.randn(5, 1, dtype=torch.float64)


@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("kind", LAYERS)
def test_norms_of_padded_sequences(kind, settings, time_first):
    model, ids, _, y = reading(Reader, kind, time_first=time_first, **settings)
    oracle = backward_norms(model, squared, ids, y)
    assert close(grad_norms(model, squared, ids, y), oracle, 1e-10)
    assert set(choose_method(model, squared, ids, y).values()) == {"ghost"}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("kind", LAYERS)
def test_norms_of_packed_sequences(kind, settings):
    model, ids, lengths, y = reading(Packed, kind, **settings)
    oracle = backward_norms(model, squared, (ids, lengths), y)
    assert close(grad_norms(model, squared, (ids, lengths), y), oracle, 1e-10)
    assert set(choose_method(model, squared, (ids, lengths), y).values()) == {"ghost"}


@pytest.mark.parametrize("make", [Reader, Packed])
@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_are_those_of_torch(kind, make):
    model, ids, lengths, _ = reading(make, kind, bidirectional=True, num_layers=2)
    x = inputs(make, ids, lengths)
    with Catch(dict(model.named_parameters())) as catch:
        found = model(*x)
    assert torch.allclose(found, model(*x), rtol=1e-12)
    # the embedding, two linear layers in each direction of each layer, the read-out
    assert len(catch.calls) == 1 + 2 * 4 + 1


def test_a_layer_without_wanted_parameters_stays_torchs():
    model, ids, _, _ = reading(Reader, "gru")
    with Catch({"bias": model.out.bias}) as catch:
        model(ids)
    assert len(catch.calls) == 1


def test_projections_stay_torchs_and_go_to_the_fallback():
    model, ids, _, y = reading(Reader, "lstm", proj_size=2)
    assert weights_of(torch.lstm, lstm_arguments(model.r)) == ()
    oracle = backward_norms(model, squared, ids, y)
    assert close(grad_norms(model, squared, ids, y), oracle, 1e-10)


def lstm_arguments(layer):
    x = torch.zeros(1, 1, layer.input_size)
    return (x, [x, x], layer._flat_weights, True, layer.num_layers, 0.0, True, False, True)


def test_steps_by_hand():
    assert steps_of([3, 2]) == [(0, 3), (3, 2)]


class Learned(Reader):
    "Initial states are parameters too."

    def __init__(self, kind):
        super().__init__(kind)
        self.h = nn.Parameter(torch.zeros(1, 1, 4))

    def forward(self, ids):
        h = self.h.expand(-1, len(ids), -1).contiguous()
        states = (h, h.sin()) if isinstance(self.r, nn.LSTM) else h
        return self.out(self.r(self.e(ids), states)[0]).sum(1)


@pytest.mark.parametrize("kind", LAYERS)
def test_learned_initial_states(kind):
    model, ids, _, y = reading(Learned, kind)
    oracle = backward_norms(model, squared, ids, y)
    assert close(grad_norms(model, squared, ids, y), oracle, 1e-10)


CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "tanh": nn.RNNCell}


class ByHand(nn.Module):
    "A loop over cells, as users write it."

    def __init__(self, kind):
        super().__init__()
        self.cell = CELLS[kind](3, 4)

    def forward(self, x):
        state = x.new_zeros(len(x), 4)
        state = (state, state) if isinstance(self.cell, nn.LSTMCell) else state
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize("kind", CELLS)
def test_cells_in_a_loop(kind):
    torch.manual_seed(0)
    model = ByHand(kind).double()
    x = torch.randn(5, 6, 3, dtype=torch.float64)
    y = torch.randn(5, 1, dtype=torch.float64)
    oracle = backward_norms(model, squared, x, y)
    assert close(grad_norms(model, squared, x, y), oracle, 1e-10)
    assert set(choose_method(model, squared, x, y).values()) == {"ghost"}


@pytest.mark.parametrize("kind", LAYERS)
def test_float32(kind):
    model, ids, _, y = reading(Reader, kind)
    oracle = backward_norms(model, squared, ids, y)
    found = grad_norms(model.float(), squared, ids, y.float())
    assert close(found, oracle, 1e-5)
