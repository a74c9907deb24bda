"""Ctrl-C at any moment of any ask: it comes out as KeyboardInterrupt, and the model is as it was found.

``CAPTUM_TRACINWE_INTERRUPTS`` says how many there are, over all ways to ask (by default a few, for CI).
"""

import random
import signal
import sys
import threading
import time

import pytest
from asks import MODELS, Live, bits, count, whole_state

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=MODELS)
def live(request, tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Live(request.param, tmp_path)
    signal.signal(signal.SIGINT, before)


def interrupted(way, arm, disarm):
    """What comes of a call that is interrupted: "done", or "interrupted"; anything else is a failure."""
    try:
        try:
            arm()
            way()
        finally:
            disarm()
    except KeyboardInterrupt:
        return "interrupted"
    return "done"


def check(live, name, way, arm, disarm, before, answer):
    said = interrupted(way, arm, disarm)
    after = whole_state(live.model)
    wrong = [key for key in before if after[key] != before[key]]
    assert not wrong, f"{name}: {wrong}"
    assert bits(way()) == answer, name
    return said


def test_an_interrupt_before_any_function_of_an_ask_leaves_no_trace(live):
    """Python may be interrupted before the first step of any function: `__exit__` too, and whatever it calls."""
    calls = 0
    at = -1

    def trace(frame, event, argument):
        nonlocal calls
        calls += 1
        if calls == at:
            signal.raise_signal(signal.SIGINT)

    ways = live.ways()
    generator = random.Random(0)
    said = []
    before = whole_state(live.model)
    for name, way in ways.items():
        answer = bits(way())
        at, calls = -1, 0
        interrupted(way, lambda: sys.settrace(trace), lambda: sys.settrace(None))
        total = calls
        for _ in range(max(1, count("CAPTUM_TRACINWE_INTERRUPTS", 62) // (2 * len(ways)))):
            at, calls = generator.randint(1, total), 0
            said.append(check(live, name, way, lambda: sys.settrace(trace), lambda: sys.settrace(None), before, answer))
    print(f"{len(said)} at calls: {said.count('interrupted')} interrupted")
    assert said.count("interrupted") > len(said) / 2


def test_an_interrupt_at_a_random_moment_leaves_no_trace(live):
    main = threading.main_thread().ident
    generator = random.Random(1)
    said = []
    before = whole_state(live.model)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    ways = live.ways()
    for name, way in ways.items():
        answer = bits(way())
        started = time.perf_counter()
        way()
        took = time.perf_counter() - started
        for _ in range(max(1, count("CAPTUM_TRACINWE_INTERRUPTS", 62) // (2 * len(ways)))):
            delay = generator.random() * took

            def later(delay=delay):
                time.sleep(delay)
                signal.pthread_kill(main, signal.SIGINT)

            thread = threading.Thread(target=later)

            def joined(thread=thread):
                try:
                    thread.join()
                    time.sleep(0)
                except KeyboardInterrupt:
                    thread.join()
                    raise

            said.append(check(live, name, way, thread.start, joined, before, answer))
    sys.setswitchinterval(interval)
    print(f"{len(said)} at random: {said.count('interrupted')} interrupted")
    assert "interrupted" in said
