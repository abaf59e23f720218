"""A board without and with a second process: norms arrive, runs do not mix, the process ends."""

import multiprocessing
import time

import numpy as np
import pytest
import torch

from impsamp.errors import InvalidArgument, UnknownName
from impsamp.problems import PaperCNN
from impsamp.randomness import seeded
from impsamp.reproduce.lahire import paper_run
from impsamp.reproduce.parallel import Board, Published, _round, clocked_run, scorer


@pytest.fixture
def desk():
    "(board, model): three items, the paper's network."
    model = seeded(PaperCNN, 0)
    return Board.make(sum(p.numel() for p in model.parameters()), 3), model


def test_norms_of_a_run_that_has_ended_are_thrown_away(desk):
    board, model = desk
    board.open(1, model)

    def late():
        board.open(2, model)
        return torch.tensor([1.0, 2.0, 3.0])

    _round(board, model, late)
    norms, of = board.known()
    assert of == -1 and norms.tolist() == [1, 1, 1]


def test_the_scorer_sees_the_published_weights(desk):
    board, model = desk
    board.open(1, model)
    with torch.no_grad():
        model[7].bias.fill_(7.0)
    board.publish(4, model)
    other = seeded(PaperCNN, 1)
    _round(board, other, lambda: torch.tensor([0.0, 0.0, 2.0]))
    assert other[7].bias.tolist() == [7, 7]
    scheme = Published(board).init(3)
    scheme.step = 6
    assert scheme.probabilities().tolist() == [0, 0, 1]
    assert scheme.age == [2]


@pytest.mark.parametrize("arm, scheme", [("u", "u"), ("gn", "gn")])
def test_one_process_is_the_papers_run(arm, scheme):
    ours = clocked_run(arm, seed=1, steps=4, every=2)
    theirs = paper_run(optimizer="sgd", scheme=scheme, seed=1, steps=4, eval_every=2, test=False)
    assert (ours["train_loss"] == theirs["train_loss"]).all()
    assert (np.diff(ours["core_seconds"]) > 0).all()


def test_what_is_refused():
    with pytest.raises(UnknownName, match="arm"):
        clocked_run("half", seed=0)
    with pytest.raises(InvalidArgument, match="board"):
        clocked_run("scorer", seed=0)


@pytest.mark.full
def test_a_second_process_scores_and_ends_with_the_block():
    before = set(multiprocessing.active_children())
    with scorer() as board:
        run = clocked_run("scorer", seed=0, board=board, steps=60, every=20)
        time.sleep(0.2)
        resting = float(board.numbers[3])
        time.sleep(0.2)
        assert float(board.numbers[3]) == resting  # no run, no rounds
    assert set(multiprocessing.active_children()) == before
    assert run["rounds"][-1] > 0 and run["age"][-1] >= 0
    assert run["core_seconds"][-1] > 0
