"""Threads that ask one live model: each gets the answer that it would get alone, and the model is as it was found.

``CAPTUM_TRACINWE_CALLS`` says how often each of 8 threads asks (by default a few times, for CI).
"""

import copy
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from asks import MODELS, Live, bits, chosen, whole_state
from captum_tracinwe.evaluation import example_gradients
from cases import cross_entropy
from torch import nn
from torch.utils.data import DataLoader, Dataset

from captum_tracinwe import TracInWE, load_checkpoint, methods, save_checkpoint
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, toy_tracin
from captum_tracinwe.gradients.live import Asked
from captum_tracinwe.gradients.turns import alone

pytestmark = pytest.mark.filterwarnings("ignore")


def side_by_side(jobs, threads=8):
    """The answers of functions, run by that many threads which start together."""
    start = threading.Barrier(threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: start.wait(), range(threads)))
        return [future.result() for future in [pool.submit(job) for job in jobs]]


@pytest.mark.parametrize("kind", MODELS)
def test_eight_threads_that_ask_one_model_get_the_answers_of_one(kind, tmp_path):
    live = Live(kind, tmp_path)
    ways = live.ways()
    names = chosen(ways, "CAPTUM_TRACINWE_CALLS", 3, share=8)
    answers = {name: bits(ways[name]()) for name in set(names)}
    before = whole_state(live.model)
    found = side_by_side([lambda name=name: bits(ways[name]()) for name in names])
    wrong = [name for name, one in zip(names, found, strict=True) if one != answers[name]]
    print(f"{len(names)} calls by 8 threads on a {kind}, {len(wrong)} wrong")
    assert not wrong
    assert whole_state(live.model) == before


def test_models_that_share_a_part_take_turns(tmp_path):
    first, second = TinyCNN(), TinyCNN()
    second.out.weight = first.out.weight  # no module in common, one parameter
    first.train()
    asked = []
    for number, model in enumerate((first, second, nn.Sequential(second))):
        folder = tmp_path / str(number)
        folder.mkdir()
        tracin, batch = toy_tracin()
        paths = scatter_checkpoints(model, folder, seed=number)
        train = tracin.train_dataloader.dataset
        asked.append(TracInWE(model, train, paths, loss_fn=cross_entropy(), batch_size=2))
    answers = [one.influence(batch) for one in asked]
    before = whole_state(first), whole_state(second)
    jobs = [lambda one=one: one.influence(batch) for _ in range(8) for one in asked]
    for number, found in enumerate(side_by_side(jobs)):
        assert torch.equal(found, answers[number % 3])
    assert (whole_state(first), whole_state(second)) == before


def test_models_that_share_memory_alone_take_turns():
    """No module and no parameter in common, but the numbers."""
    first, second = TinyCNN(), TinyCNN()
    second.out.weight.data = first.out.weight.data
    view = TinyCNN()
    view.out.bias.data = first.out.weight.data[:1].flatten()[: len(view.out.bias)]
    for other in (second, view):
        entered = threading.Event()

        def enter(other=other, entered=entered):
            with alone(other):
                entered.set()

        thread = threading.Thread(target=enter)
        with alone(first):
            thread.start()
            assert not entered.wait(0.3)
        thread.join(20)
        assert entered.is_set()


def test_models_without_memory_need_not_wait_for_each_other():
    def odd():
        model = nn.Linear(3, 2, device="meta")
        model.register_buffer("sparse", torch.eye(3).to_sparse())
        model.register_buffer("empty", torch.empty(0))
        model.lazy = nn.LazyLinear(2)
        return model

    entered = threading.Event()

    def enter():
        with alone(odd()):
            entered.set()

    thread = threading.Thread(target=enter)
    with alone(odd()):
        thread.start()
        assert entered.wait(20)
    thread.join()


@pytest.mark.parametrize("models", [2, 3])
def test_asks_that_would_wait_for_each_other_for_ever_are_refused_in_one_thread(models):
    asked = [TinyCNN() for _ in range(models)]
    inside, outcome = threading.Barrier(models), {}

    def nested(number):
        try:
            with alone(asked[number]):
                inside.wait(20)
                with alone(asked[(number + 1) % models]):
                    outcome[number] = "answered"
        except RuntimeError as error:
            outcome[number] = str(error)

    threads = [threading.Thread(target=nested, args=(number,), daemon=True) for number in range(models)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    refused = [text for text in outcome.values() if text != "answered"]
    assert len(outcome) == models
    assert len(refused) == 1
    assert refused[0].startswith("These asks wait for each other")
    assert ", ".join(["TinyCNN"] * models) + ". Expected" in refused[0]
    assert "in one order" in refused[0]


def test_models_that_share_nothing_need_not_wait():
    inside, others = threading.Event(), threading.Event()

    def other():
        with alone(TinyCNN()):
            inside.set()
            assert others.wait(20)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(20)
    tracin, batch = toy_tracin()
    tracin.influence(batch)
    assert thread.is_alive()
    others.set()
    thread.join()


def test_asks_are_answered_in_the_order_in_which_they_came():
    model, order = TinyCNN(), []

    def ask(number):
        with alone(model):
            order.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    with alone(model):
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        with alone(model):  # who is within enters again, before those who wait
            order.append("again")
    for thread in threads:
        thread.join()
    assert order == ["again", 0, 1, 2, 3, 4]


def test_weights_saved_or_loaded_beside_an_ask_are_not_those_of_a_checkpoint_of_it(tmp_path):
    live = Live("bag", tmp_path)
    expected = bits(live.model.state_dict())
    busy = threading.Event()

    def ask():
        while not busy.is_set():
            live.tracin.influence(live.batch)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(5):
            save_checkpoint(tmp_path / "own.pt", live.model, 0.1)
            saved = torch.load(tmp_path / "own.pt", weights_only=True)["model_state_dict"]
            assert bits(dict(saved)) == expected
        load_checkpoint(live.model, live.paths[0])
    finally:
        busy.set()
        thread.join()
    loaded = torch.load(live.paths[0], weights_only=True)["model_state_dict"]
    assert bits(live.model.state_dict()) == bits(loaded)


def test_whoever_stops_taking_blocks_or_gradients_leaves_the_model_free(tmp_path):
    live = Live("bag", tmp_path)
    before = whole_state(live.model)
    ids, labels = live.batch
    taken = [
        live.blockwise.source.score_blocks(live.blockwise.question(live.batch)),
        live.blockwise.live.row_blocks(live.tracin.train_dataloader, Asked(cross_entropy())),
        example_gradients(live.model, [(ids[:1], labels[:1])] * 2, cross_entropy()),
    ]
    for generator in taken:
        next(generator)
        assert whole_state(live.model) == before
        thread = threading.Thread(target=live.tracin.self_influence)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
        closing = threading.Thread(target=generator.close)
        closing.start()
        closing.join(20)
        assert whole_state(live.model) == before


class Asking(Dataset):
    """Examples that are read by asking the same model, as an active learner might."""

    def __init__(self, tracin, batch):
        self.tracin, self.batch = tracin, batch

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.tracin.influence(self.batch)
        ids, labels = self.batch
        return ids[0], labels[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_workers_forked_while_a_model_is_asked_do_not_wait_for_ever(tmp_path):
    live = Live("bag", tmp_path)
    asking = Asking(live.tracin, live.batch)
    inside, done = threading.Event(), threading.Event()

    def hold():
        with alone(live.model):
            inside.set()
            assert done.wait(60)

    loader = DataLoader(asking, 2, num_workers=1, multiprocessing_context="fork", timeout=60)
    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(20)
    try:
        assert sum(len(labels) for _, labels in loader) == 4
    finally:
        done.set()
        thread.join()
    nested = TracInWE(live.model, asking, live.paths, **live.options)
    assert nested.self_influence().shape == (4,)


def test_a_copy_or_a_pickle_asks_as_the_first(tmp_path):
    live = Live("bag", tmp_path)
    expected = live.tracin.influence(live.batch)
    for other in (copy.deepcopy(live.tracin), copy.copy(live.tracin), pickle.loads(pickle.dumps(live.tracin))):
        assert torch.equal(other.influence(live.batch), expected)


def test_an_interrupt_ends_the_wait_for_a_turn(tmp_path):
    live = Live("bag", tmp_path)
    inside, done = threading.Event(), threading.Event()
    main = threading.main_thread().ident

    def hold():
        with alone(live.model):
            inside.set()
            time.sleep(0.2)
            signal.pthread_kill(main, signal.SIGINT)
            assert done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(20)
    with pytest.raises(KeyboardInterrupt):
        live.tracin.influence(live.batch)
    done.set()
    thread.join()
    before = whole_state(live.model)
    live.tracin.influence(live.batch)
    assert whole_state(live.model) == before


def test_checks_leave_the_numbers_alone_that_another_thread_draws(tmp_path):
    """What puts the generators back took numbers from a method that had just seeded them: a fifth of its answers were wrong."""
    (tracin, batch), other = toy_tracin(), TinyCNN()
    paths = scatter_checkpoints(other, tmp_path)
    loss, train = cross_entropy(), tracin.train_dataloader.dataset
    explained = methods.Explained(tracin.model, tracin.checkpoints, loss, load=tracin.checkpoints_load_func)
    examples = methods.Examples(batch)
    drawn = methods.tracin_last_projected(explained, 3, seed=5)
    expected = drawn(examples, examples)
    answers = [lambda: drawn(examples, examples)] * 10
    checks = [lambda: TracInWE(other, train, paths, loss_fn=loss, batch_size=2).influence(batch)] * 3
    for number, found in enumerate(side_by_side([*answers, *checks] * 4)):
        assert number % 13 >= 10 or torch.equal(found, expected)
