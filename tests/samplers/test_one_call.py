"""The loader in one call, under all that a loop does to it, draws what one calm process draws."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import impsamp
from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidShape, UnknownName
from impsamp.samplers import ImportanceBatchSampler, SumTree, WithDraw, importance_loader
from impsamp.samplers.one_call import SCHEMES, ImportanceLoader, law_of
from impsamp.schemes import GradNorm, Loss, Mixture, Shuffle, Stale, Uniform, UpperBound
from tests.samplers.helpers import through_a_file
from tests.samplers.loops import BATCH, CHANGING, STATIC, STEPS, Loop, N, key, losses_of, run
from tests.samplers.loops import sampler_of as plain_sampler

TOTAL = 2 * STEPS + 3
LAWS = ["stale", "tree", "loss", "prioritized", "half", "switch", "p", "shuffle", "subset"]
WORKERS = {
    "none": {},
    "two": dict(num_workers=2),
    "persistent": dict(num_workers=2, persistent_workers=True, prefetch_factor=3),
}


def data():
    return TensorDataset(torch.arange(float(N)))


def loader_of(law, *, seed=0, **options):
    size = None if law == "subset" else BATCH
    made = {**CHANGING, **STATIC}[law]()
    return importance_loader(data(), made, size, steps=STEPS, generator=seed, **options)


def calm(law, total=TOTAL, lag=None):
    "What a plain DataLoader over the batch sampler sees, left alone."
    return run(plain_sampler(law, lag=lag), total, Loop())


def trained(loader, total=TOTAL, *, breaks=(), looks=(), reports=True, seen=None):
    "The draws that a loop trained on; it looks at a batch before the passes numbered in `looks`."
    seen = [] if seen is None else seen
    passes = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while len(seen) < total:
            if passes in looks:
                next(iter(loader))
            passes += 1
            for (x,), draw in loader:
                seen.append(key(draw))
                if reports:
                    loader.update(draw, losses_of(draw, x))
                if draw.step in breaks or len(seen) == total:
                    break
    return seen


# ---- must show: as in one undisturbed process -------------------------------------------------
@pytest.mark.parametrize("law", LAWS)
def test_breaks_looks_and_epochs_leave_the_draws_as_they_are(law):
    loader = loader_of(law)
    assert trained(loader, breaks={2, 3, 11}, looks={0, 1, 3}) == calm(law)
    assert len(loader) == STEPS


def crossed(laws, kinds, always):
    "Every law under every kind of loader; all but `always` are for `make test-full`."
    pairs = [(law, kind) for law in laws for kind in kinds]
    full = pytest.mark.full
    return [pytest.param(*pair, marks=[] if pair in always else [full]) for pair in pairs]


ALWAYS = {("stale", "persistent"), ("shuffle", "two")}


@pytest.mark.parametrize(
    "law, workers", crossed(["stale", "tree", "p", "shuffle"], ["two", "persistent"], ALWAYS)
)
def test_workers_leave_the_draws_as_they_are(law, workers):
    loader = loader_of(law, lag=7, **WORKERS[workers])
    assert trained(loader, breaks={2, 11}, looks={0}) == calm(law, lag=7)
    assert loader.batch_sampler.late == 0


@pytest.mark.parametrize("stop", [1, 3, STEPS, STEPS + 4])
@pytest.mark.parametrize("law", LAWS)
def test_resumed_in_mid_epoch_the_draws_are_those_of_one_run(law, stop):
    loader = loader_of(law)
    seen = trained(loader, stop)
    state = through_a_file(loader.state_dict())
    resumed = loader_of(law, seed=9)
    resumed.load_state_dict(state)
    assert trained(resumed, seen=seen) == calm(law)


@pytest.mark.parametrize("law", ["stale", "shuffle"])
def test_resumed_with_workers_the_draws_are_those_of_one_run(law):
    loader = loader_of(law, lag=7, **WORKERS["two"])
    seen = trained(loader, 5)
    state = through_a_file(loader.state_dict())
    resumed = loader_of(law, seed=9, lag=7, **WORKERS["persistent"])
    resumed.load_state_dict(state)
    assert trained(resumed, seen=seen) == calm(law, lag=7)


disturbances = st.sets(st.integers(0, TOTAL), max_size=6)


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(LAWS), disturbances, disturbances, st.booleans())
def test_whatever_happens_the_draws_are_those_of_a_calm_loop(law, breaks, looks, auto):
    loader = loader_of(law, lag="auto" if auto else None)
    assert trained(loader, breaks=breaks, looks=looks) == calm(law, lag=1 if auto else None)


# ---- loops that never report ------------------------------------------------------------------
def unreported(law, total=TOTAL):
    seen = []
    loader = loader_of(law)
    while len(seen) < total:
        seen += [key(draw) for _, draw in loader]
    return seen[:total]


SILENT = ["p", "shuffle", "subset", "norms", "stale"]
AT_ONCE = {(law, "none") for law in SILENT} | {("p", "two"), ("norms", "persistent")}


@pytest.mark.parametrize("law, workers", crossed(SILENT, WORKERS, AT_ONCE))
def test_a_loop_that_never_reports_goes_on_exactly_after_a_break(law, workers):
    def fresh():
        loader = loader_of(law, **WORKERS[workers])
        if law == "norms":
            loader.update(np.arange(N), 1.0 + np.arange(N))
        return loader

    if law == "norms":
        wanted = run(plain_sampler(law), TOTAL, Loop(skips=set(range(TOTAL))))
    else:
        wanted = unreported(law)
    assert trained(fresh(), breaks={3, 10}, looks={0, 2}, reports=False) == wanted


@pytest.mark.parametrize("law", ["p", pytest.param("shuffle", marks=pytest.mark.full), "stale"])
def test_a_state_taken_in_a_loop_without_reports_goes_on_with_the_next_batch(law):
    loader = loader_of(law, **WORKERS["two"])
    seen = []
    for _, draw in loader:
        seen.append(key(draw))
        if draw.step == 3:
            state = through_a_file(loader.state_dict())
            break
    resumed = loader_of(law, seed=9)
    resumed.load_state_dict(state)
    assert trained(resumed, reports=False, seen=seen) == unreported(law)


@pytest.mark.parametrize("law", ["p", "stale"])
def test_one_batch_a_pass_without_reports_does_not_train_on_one_batch_for_ever(law):
    loader = loader_of(law)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps = [next(iter(loader))[1].step for _ in range(6)]
    assert len(set(steps)) >= 3


# ---- epochs -----------------------------------------------------------------------------------
@pytest.mark.parametrize("law", ["stale", "shuffle"])
def test_a_named_epoch_has_its_own_draws_and_none_comes_twice(law):
    loader = loader_of(law)
    loader.set_epoch(0)
    trained(loader, 3)
    loader.set_epoch(2)
    assert [draw.step for _, draw in loader] == list(range(2 * STEPS, 3 * STEPS))
    loader.set_epoch(1)
    assert next(iter(loader))[1].step == 3 * STEPS


def test_a_loop_that_names_each_epoch_resumes_in_the_middle_of_one():
    def train(loader, first, seen):
        for epoch in range(first, 3):
            loader.set_epoch(epoch)
            for (x,), draw in loader:
                seen.append(key(draw))
                loader.update(draw, losses_of(draw, x))
                if len(seen) == STEPS + 3:
                    return seen
        return seen

    loader = loader_of("stale")
    seen = train(loader, 0, [])
    resumed = loader_of("stale", seed=9)
    resumed.load_state_dict(through_a_file(loader.state_dict()))
    assert train(resumed, 1, seen) == calm("stale", 3 * STEPS)


def test_epochs_are_as_long_as_those_of_a_plain_loader():
    for n, size in [(10, 3), (9, 3), (2, 5)]:
        for drop in (False, True):
            items = list(range(n))
            loader = importance_loader(items, "uniform", size, drop_last=drop, generator=0)
            plain = len(DataLoader(items, size, drop_last=drop))
            assert len(loader) == max(1, plain)
            assert all(len(draw.idx) == size for _, draw in loader)
    assert len(importance_loader(range(10), "shuffle", 3, generator=0)) == 3
    subset = STATIC["subset"]()
    assert len(importance_loader(data(), subset, None, generator=0)) == 10


# ---- seeds, lags, schemes ---------------------------------------------------------------------
def test_without_a_generator_the_seed_is_torchs_and_recorded():
    def first(**options):
        loader = importance_loader(data(), "uniform", 4, **options)
        return loader.seed, key(next(iter(loader))[1])

    torch.manual_seed(3)
    a = first()
    torch.manual_seed(3)
    assert first() == a
    assert first() != a
    assert first(generator=5) == first(generator=np.random.default_rng(5))
    assert first(generator=torch.Generator().manual_seed(1))[0] > 0


def test_looking_and_drawing_leave_torchs_generator_alone():
    loader = loader_of("stale")
    before = torch.get_rng_state()
    trained(loader, 9)
    assert torch.equal(torch.get_rng_state(), before)


class Noise:
    "Items with the random numbers of the worker that fetched them."

    def __len__(self):
        return N

    def __getitem__(self, i):
        return torch.rand(())


def test_the_workers_random_numbers_are_seeded_and_differ_from_epoch_to_epoch():
    def one(loader):
        return torch.cat([x for x, _ in loader])

    def epochs(seed):
        loader = importance_loader(Noise(), "uniform", 4, steps=3, generator=seed, num_workers=2)
        return one(loader), one(loader)

    a, b = epochs(0)
    again = epochs(0)
    assert torch.equal(a, again[0])
    assert torch.equal(b, again[1])
    assert not torch.equal(a, b)


def test_the_lag_follows_the_workers_and_the_prefetch_factor():
    assert loader_of("p").batch_sampler.lag is None
    assert loader_of("p", lag="auto").batch_sampler.lag == 1
    assert loader_of("p", lag="auto", num_workers=2).batch_sampler.lag == 5
    options = dict(num_workers=2, prefetch_factor=3)
    assert loader_of("p", lag="auto", **options).batch_sampler.lag == 7
    with pytest.raises(UnknownName, match="auto"):
        loader_of("p", lag="automatic")


@pytest.mark.parametrize("name", SCHEMES)
def test_every_name_is_a_scheme_that_trains(name):
    loader = importance_loader(data(), name, BATCH, steps=STEPS, generator=0)
    assert len(trained(loader)) == TOTAL


def test_a_scheme_that_was_initialised_keeps_its_memory():
    scheme = Loss().init(N)
    scheme.update([3], [100.0])
    loader = importance_loader(data(), scheme, 4, generator=0)
    assert loader.batch_sampler._stream.source.law.scores[3] == 100


def test_the_losses_may_carry_a_graph_and_half_precision():
    loader = loader_of("loss")
    (_,), draw = next(iter(loader))
    losses = torch.full((BATCH,), 2.0, dtype=torch.bfloat16, requires_grad=True)
    loader.update(draw, losses)
    next(iter(loader))
    known = loader.batch_sampler._stream.source.law.scores
    assert known[draw.idx].tolist() == [2.0] * BATCH


# ---- a wrapper that builds a DataLoader of its own ---------------------------------------------
def test_the_report_reaches_the_sampler_of_a_rebuilt_loader():
    loader = loader_of("stale")
    rebuilt = DataLoader(
        loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn
    )
    seen = []
    while len(seen) < TOTAL:
        for (x,), draw in rebuilt:
            seen.append(key(draw))
            loader.update(draw, losses_of(draw, x))
            if len(seen) == TOTAL:
                break
    assert seen == calm("stale")
    assert rebuilt.batch_sampler.over == TOTAL - 1


def test_a_wrapper_may_build_another_loader_of_the_same_class():
    loader = loader_of("stale")
    again = type(loader)(
        dataset=loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn
    )
    assert trained(again) == calm("stale")


# ---- items of every kind -----------------------------------------------------------------------
class Texts:
    "Items are dicts with strings."

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return {"text": "a" * i, "label": i, "more": {"name": str(i), "x": torch.ones(2) * i}}


@pytest.mark.parametrize("options", WORKERS.values())
def test_items_may_be_dicts_with_strings(options):
    loader = importance_loader(Texts(), "stale", 3, generator=0, **options)
    for batch, draw in loader:
        assert batch["text"] == ["a" * i for i in draw.idx.tolist()]
        assert batch["label"].tolist() == draw.idx.tolist()
        assert batch["more"]["name"] == [str(i) for i in draw.idx.tolist()]
        assert batch["more"]["x"].shape == (3, 2)
        loader.update(draw, torch.ones(3))


def test_an_empty_subset_of_dicts_with_strings_has_length_zero():
    law = impsamp.IndependentSampling(np.full(6, 1e-9))
    batch, draw = next(iter(importance_loader(Texts(), law, None, steps=2, generator=0)))
    assert len(draw.idx) == 0
    assert batch["text"] == []
    assert batch["more"]["x"].shape == (0, 2)


def test_the_collate_function_is_the_data_sets_own():
    loader = importance_loader(range(9), "uniform", 4, generator=0, collate_fn=tuple)
    batch, draw = next(iter(loader))
    assert batch == tuple(draw.idx.tolist())


def test_a_batch_may_be_larger_than_the_data_set():
    loader = importance_loader(range(3), "stale", 8, generator=0)
    assert len(loader) == 1
    for _, draw in loader:
        assert len(draw.idx) == 8
        assert abs(float(draw.weight.sum()) - 1) < 1e-12
        loader.update(draw, 1.0 + draw.idx)
    with pytest.raises(InvalidArgument, match="exceeds the 3 items"):
        importance_loader(range(3), Shuffle(), 8, generator=0)


# ---- refusals -----------------------------------------------------------------------------------
class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(9))


class WithoutInit:
    n = None

    def probabilities(self, scores=None):
        return np.full(5, 0.2)


REFUSED = {
    "a stream": (lambda: importance_loader(Stream(), "stale", 2), InvalidArgument, "is a stream"),
    "a generator": (lambda: importance_loader(iter([1]), "stale", 2), InvalidArgument, "a stream"),
    "a loader": (
        lambda: importance_loader(DataLoader(range(9), 2, shuffle=True), "stale", 2),
        InvalidArgument,
        "give its data set",
    ),
    "columns": (
        lambda: importance_loader((torch.ones(9, 2), torch.ones(9)), "stale", 2),
        InvalidArgument,
        r"TensorDataset\(x, y\)",
    ),
    "a dict of columns": (
        lambda: importance_loader({"x": torch.ones(9)}, "stale", 2),
        InvalidArgument,
        "a dict of columns",
    ),
    "shuffle": (
        lambda: importance_loader(range(9), "stale", 2, shuffle=True),
        InvalidArgument,
        "leave out shuffle",
    ),
    "a seed": (
        lambda: importance_loader(range(9), "stale", 2, seed=7),
        InvalidArgument,
        "generator=7",
    ),
    "all items": (
        lambda: importance_loader(range(9), Loss(scope="all"), 2),
        InvalidArgument,
        "fresh scores of all items",
    ),
    "a mixture of all items": (
        lambda: importance_loader(range(9), Mixture(GradNorm(), Uniform()), 2),
        InvalidArgument,
        "fresh scores of all items",
    ),
    "a sampler": (
        lambda: importance_loader(range(9), "stale", 2, sampler=range(9)),
        InvalidArgument,
        "leave out sampler",
    ),
    "nothing": (lambda: importance_loader([], "stale", 2), InvalidArgument, "is empty"),
    "a misspelt name": (lambda: importance_loader(range(9), "stael", 2), UnknownName, "'stale'"),
    "a class": (lambda: importance_loader(range(9), Stale, 2), InvalidArgument, r"Stale\(...\)"),
    "a pool": (
        lambda: importance_loader(range(9), UpperBound(), 2),
        InvalidArgument,
        "scores a pool",
    ),
    "a mixed pool": (
        lambda: importance_loader(range(9), Mixture(UpperBound(), Uniform()), 2),
        InvalidArgument,
        "scores a pool",
    ),
    "no init": (lambda: importance_loader(range(5), WithoutInit(), 2), InvalidArgument, "init"),
    "another n": (
        lambda: importance_loader(range(5), Stale().init(4), 2),
        InvalidShape,
        "5 items, Stale 4",
    ),
    "p of another n": (lambda: importance_loader(range(5), [0.5, 0.5], 2), InvalidShape, "5 items"),
    "a subset of another n": (
        lambda: importance_loader(range(5), STATIC["subset"](), None),
        InvalidShape,
        "5 items",
    ),
    "a sum that is not 1": (
        lambda: importance_loader(range(2), [0.5, 0.6], 2),
        InvalidProbabilities,
        "sums to",
    ),
    "no scheme": (lambda: importance_loader(range(5), 3.0, 2), InvalidArgument, "a scheme"),
    "no batch size": (lambda: importance_loader(range(5), "stale", 0), InvalidArgument, "batch_si"),
    "no size": (lambda: importance_loader(range(5), "stale", None), InvalidArgument, "batch_size"),
    "half a step": (
        lambda: importance_loader(range(5), "stale", 2, steps=0.5),
        InvalidArgument,
        "steps",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_in_words(what):
    make, error, words = REFUSED[what]
    with pytest.raises(error, match=words):
        make()


def test_a_scheme_without_init_that_knows_its_items_is_welcome():
    scheme = WithoutInit()
    scheme.n = 5
    scheme.update = lambda idx, scores: None
    assert law_of(scheme, 5) is scheme
    loader = importance_loader(range(5), scheme, 2, generator=0)
    for _, draw in loader:
        loader.update(draw, torch.ones(2))


def test_reports_are_refused_in_words():
    loader = loader_of("stale")
    _, draw = next(iter(loader))
    with pytest.raises(InvalidShape, match='reduction="none"'):
        loader.update(draw, torch.tensor(0.5))
    with pytest.raises(InvalidShape):
        loader.update(draw, torch.ones(BATCH + 1))
    static = loader_of("shuffle")
    _, draw = next(iter(static))
    with pytest.raises(InvalidArgument, match="give the draw"):
        static.update(draw.idx, torch.ones(BATCH))
    with pytest.raises(InvalidShape, match='reduction="none"'):
        static.update(draw, torch.tensor(0.5))


def test_the_state_of_another_loader_is_refused_and_changes_nothing():
    loader = loader_of("stale")
    trained(loader, 3)
    other = importance_loader(range(7), "stale", 2, generator=0)
    with pytest.raises(InvalidArgument, match="not for here"):
        loader.load_state_dict(other.state_dict())
    assert trained(loader, seen=calm("stale", 3)) == calm("stale")


def test_norms_of_all_items_must_be_reported_before_the_first_draw():
    with pytest.raises(InvalidArgument, match=r"GradNorm wants fresh .*Stale\('norm'\)"):
        importance_loader(data(), GradNorm(), 4, generator=0)
    loader = importance_loader(data(), GradNorm().init(N), 4, generator=0)
    loader.update(np.arange(N), 1.0 + np.arange(N))
    _, draw = next(iter(loader))
    assert np.allclose(draw.prob, (1.0 + draw.idx) / (1.0 + np.arange(N)).sum())


def test_each_name_is_explained_where_help_looks():
    for name in SCHEMES:
        assert f'- "{name}": ' in importance_loader.__doc__


def test_the_loader_shares_its_samplers_counts():
    loader = importance_loader(range(N), "loss", 4, lag=0, generator=0)
    assert (loader.ignored, loader.late) == (0, 0)
    batches = iter(loader)
    _, first = next(batches)
    next(batches)
    with pytest.warns(RuntimeWarning) as told:
        loader.update(first, torch.full((4,), torch.nan))
    assert told[0].filename == __file__
    next(batches)
    with pytest.warns(RuntimeWarning, match="a report came after"):
        loader.update(first, torch.ones(4))
    assert (loader.ignored, loader.late) == (1, 1)


def passes(loader, count, report=None):
    "The warnings of `count` passes, and their lines' files."
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(count):
            for _, draw in loader:
                if report is not None:
                    loader.update(draw, report[draw.idx])
    return [(str(w.message), w.filename) for w in told if "nothing was reported" in str(w.message)]


@pytest.mark.parametrize("name", ["stale", "remembered", "loss", "prioritized", "pruning"])
def test_a_loop_that_never_reports_is_told_once_after_a_pass(name):
    loader = importance_loader(range(24), name, 4, generator=0)
    [(words, file)] = passes(loader, 3)
    assert "24 items were drawn" in words and "update(draw, losses)" in words
    assert file == __file__
    assert passes(importance_loader(range(24), name, 4, steps=5, generator=0), 1) == []
    assert passes(importance_loader(range(24), name, 4, generator=0), 3, torch.ones(24)) == []


def test_without_a_loader_of_ours_it_is_told_when_no_worker_can_be_that_far_ahead():
    sampler = ImportanceBatchSampler(Loss().init(24), 4, steps=6, generator=0)
    plain = DataLoader(range(24), batch_sampler=sampler)
    assert len(passes_of_a_plain(plain, 7)) == 1
    first = DataLoader(range(24), batch_sampler=ImportanceBatchSampler(Loss().init(24), 4, steps=6))
    assert passes_of_a_plain(first, 5) == []


def passes_of_a_plain(loader, count):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(count):
            list(loader)
    return [w.filename for w in told if "nothing was reported" in str(w.message)]


@pytest.mark.parametrize("what", ["uniform", "shuffle", "tree", "known"])
def test_what_needs_no_reports_hears_nothing_of_them(what):
    law = what
    if what == "tree":
        law = SumTree(torch.ones(24))
    if what == "known":
        law = Loss().init(24)
        law.update(np.arange(24), np.arange(24.0))
    assert passes(importance_loader(range(24), law, 4, generator=0), 4) == []


def test_names_are_public():
    assert impsamp.importance_loader is importance_loader
    assert impsamp.ImportanceLoader is ImportanceLoader
    loader = importance_loader(data(), SumTree(np.ones(N)), 4, generator=0)
    assert isinstance(loader, DataLoader)
    assert isinstance(loader.batch_sampler, ImportanceBatchSampler)
    assert isinstance(loader.dataset, WithDraw)


def test_a_state_loaded_into_the_sampler_itself_is_welcome():
    loader = loader_of("stale")
    trained(loader, 5)
    state = through_a_file(loader.batch_sampler.state_dict())
    other = loader_of("stale", seed=9)
    trained(other, 7, reports=False)
    other.batch_sampler.load_state_dict(state)
    assert trained(other, seen=calm("stale", 5)) == calm("stale")


@pytest.mark.full
def test_workers_may_be_spawned():
    loader = loader_of("stale", lag=5, num_workers=1, multiprocessing_context="spawn")
    assert trained(loader, STEPS) == calm("stale", STEPS, lag=5)


class OnADevice:
    "What a wrapper does that moves a batch and its draw to a device and back: it makes new tuples."

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        for batch, draw in self.loader:
            yield batch, type(draw)(*(x.clone() if torch.is_tensor(x) else x for x in draw))


def test_the_draw_may_be_copied_on_its_way():
    loader = loader_of("stale")
    seen = []
    for _ in range(2):
        for (x,), draw in OnADevice(loader):
            seen.append(key(draw))
            loader.update(draw, losses_of(draw, x))
    assert seen == calm("stale", 2 * STEPS)


def test_a_batch_that_was_changed_on_its_way_is_refused():
    loader = loader_of("stale")
    batch = next(iter(loader.batch_sampler))
    batch += [1, 2]
    with pytest.raises(InvalidArgument, match="a batch of 6 items has a draw of 4"):
        loader.dataset.__getitems__(batch)
    assert not hasattr(loader.batch_sampler, "drop_last")
