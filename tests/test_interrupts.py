"""Ctrl-C at any moment of any ask: it comes out as KeyboardInterrupt, and the model is as it was found.

``CAPTUM_TRACINWE_INTERRUPTS`` says how many there are, over all ways to ask (by default a few, for CI).
"""

import random
import signal
import sys
import threading
import time

import pytest
import torch
from asks import MODELS, Live, bits, chosen, whole_state
from cases import cross_entropy

from captum_tracinwe import load_checkpoint
from captum_tracinwe.gradients.interrupts import unbroken

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=MODELS)
def live(request, tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Live(request.param, tmp_path)
    signal.signal(signal.SIGINT, before)


def interrupted(way, arm, disarm):
    """Whether the call was cut short: by KeyboardInterrupt, or the test fails."""
    done = False
    try:
        try:
            arm()
            way()
            done = True
        finally:
            disarm()
    except KeyboardInterrupt:
        pass  # within the call or, too late for it, in `disarm`
    return not done


def count_interrupts(live, how, arms):
    """Interrupt a quarter of all: (way) → (arm, disarm) anew each time; the share that was cut short."""
    ways, before, cut = live.ways(), whole_state(live.model), []
    names = sorted(chosen(ways, "CAPTUM_TRACINWE_INTERRUPTS", 48, share=1 / 4))
    for number, name in enumerate(names):
        way = ways[name]
        if not number or names[number - 1] != name:
            answer = bits(way())
            arm_again = arms(way)
        cut.append(interrupted(way, *arm_again()))
        after = whole_state(live.model)
        assert not [key for key in before if after[key] != before[key]], name
        assert bits(way()) == answer, name
    print(f"{len(cut)} interrupts {how}: {sum(cut)} cut a call short")
    return sum(cut) / len(cut)


def test_an_interrupt_before_any_function_of_an_ask_leaves_no_trace(live):
    """Python may be interrupted before the first step of any function: of `__exit__` too, and of whatever it calls."""
    generator = random.Random(0)
    measured = sys.gettrace()  # that of a measurement of coverage

    def arms(way):
        calls, at = 0, -1

        def trace(frame, event, argument):
            nonlocal calls
            calls += 1
            if calls == at:
                signal.raise_signal(signal.SIGINT)

        def arm_again():
            nonlocal calls, at
            calls, at = 0, generator.randint(1, total)
            return lambda: sys.settrace(trace), lambda: sys.settrace(measured)

        interrupted(way, lambda: sys.settrace(trace), lambda: sys.settrace(measured))
        total = calls
        return arm_again

    assert count_interrupts(live, "before a function", arms) > 1 / 2


def test_an_interrupt_at_a_random_moment_leaves_no_trace(live):
    generator = random.Random(1)
    main = threading.main_thread().ident

    def arms(way):
        started = time.perf_counter()
        way()
        took = time.perf_counter() - started

        def arm_again():
            delay = generator.random() * took
            thread = threading.Thread(target=lambda: (time.sleep(delay), signal.pthread_kill(main, signal.SIGINT)))

            def joined():
                try:
                    thread.join()
                    time.sleep(0)
                except KeyboardInterrupt:
                    thread.join()
                    raise

            return thread.start, joined

        return arm_again

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        assert count_interrupts(live, "at a random moment", arms) > 0
    finally:
        sys.setswitchinterval(interval)


def test_what_comes_on_the_way_in_or_out_comes_once_and_after(live):
    del live
    told = []

    @unbroken
    def block(where):
        if where == "in":
            signal.raise_signal(signal.SIGINT)
        told.append("in")
        try:
            yield
        finally:
            if where == "out":
                signal.raise_signal(signal.SIGINT)
            told.append("out")

    for where in ("in", "out"):
        told.clear()
        with pytest.raises(KeyboardInterrupt), block(where), block(""):
            told.append("within")
        assert told == (["in", "out"] if where == "in" else ["in", "in", "within", "out", "out"])


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "of the user's own"])
def test_the_users_handler_decides_what_an_interrupt_does(live, handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        seen = []

        def loss(prediction, labels):
            seen.append(signal.raise_signal(signal.SIGINT))
            return cross_entropy()(prediction, labels)

        live.tracin.loss_fn = loss
        live.tracin.self_influence()
        assert seen
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_checkpoint_is_loaded_whole_or_not_at_all(live, monkeypatch):
    weights = bits(torch.load(live.paths[0], weights_only=True)["model_state_dict"])
    original = type(live.model).load_state_dict

    def interrupted_halfway(self, state, **options):
        signal.raise_signal(signal.SIGINT)
        return original(self, state, **options)

    monkeypatch.setattr(type(live.model), "load_state_dict", interrupted_halfway)
    with pytest.raises(KeyboardInterrupt):
        load_checkpoint(live.model, live.paths[0])
    assert bits(live.model.state_dict()) == weights


@pytest.mark.parametrize("name", ["influence, copying loader", "influence", "tracin_last", "example_gradients"])
def test_an_interrupt_at_any_parameter_that_is_frozen_or_put_back_leaves_no_trace(live, name, monkeypatch):
    original, way = torch.Tensor.requires_grad_, live.ways()[name]
    answer, before = bits(way()), whole_state(live.model)
    calls, at = 0, -1

    def counted(tensor, *wanted):
        nonlocal calls
        calls += 1
        if calls == at:
            signal.raise_signal(signal.SIGINT)
        return original(tensor, *wanted)

    monkeypatch.setattr(torch.Tensor, "requires_grad_", counted)
    way()
    total = calls
    for place in {1, 2, total // 2, total - 1, total}:
        calls, at = 0, place
        with pytest.raises(KeyboardInterrupt):
            way()
        after = whole_state(live.model)
        assert not [key for key in before if after[key] != before[key]]
    at = -1
    assert bits(way()) == answer


def test_an_interrupt_while_torch_has_taken_a_mode_off_is_still_an_interrupt(live, monkeypatch):
    original, calls = torch.overrides._push_mode, []

    def interrupted_before(mode):
        calls.append(mode)
        if len(calls) == 2:  # the first is the way in
            signal.raise_signal(signal.SIGINT)
        return original(mode)

    monkeypatch.setattr(torch.overrides, "_push_mode", interrupted_before)
    live.tracin.probes.wanted = (
        False  # the probe asks the model without our mode first: there it is torch that is interrupted
    )
    before = whole_state(live.model)
    with torch.device("cpu"):
        around = torch.overrides._get_current_function_mode_stack()
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            live.tracin.influence(live.batch)
        assert torch.overrides._get_current_function_mode_stack() == around
    assert whole_state(live.model) == before
