"""A real server: 50 clients at once, 1,000 hostile requests, slow ones, an end; right answers throughout, and bounded memory."""

import contextlib
import json
import math
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from browser import BROWSER
from hostile_requests import HOST, hostile, request, send
from serve_cases import JSON, Direct, Process, made

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
psutil = pytest.importorskip("psutil")

#: Bytes beyond those of the server when it has begun: of 50 clients and 1,000 hostile requests at a time.
CEILING = 100 * 10**6
ASKED = [
    f"the {a} and a {b}" for a in ("cat", "dog", "sail", "deck", "tail") for b in ("ship", "paw", "keel", "fur", "mast")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(folder):
    process = Process(folder)
    yield process
    assert process.close() == -signal.SIGTERM
    assert [line for line in process.errors if line.strip()] == ["captum-tracinwe serve: stopped.\n"]


@pytest.fixture(scope="module")
def known(folder):
    """Of each text the training indices and scores for its answer and against it, as TracInWE says them."""
    direct = Direct(folder)
    labels = direct.answers(ASKED)
    return {
        text: (label, [[(one.train_index, one.score, _words(one)) for one in side] for side in sides])
        for text, label, sides in zip(ASKED, labels, direct.all_pairs(ASKED, labels, 4), strict=True)
    }


def _words(pair):
    return {word.text: word.share for word in pair.words()}


def check(answer, text, known):
    label, sides = known[text]
    assert answer["text"] == text
    assert answer["label"] == answer["prediction"] == ("boats", "pets")[label]
    for side, rows in zip(("proponents", "opponents"), sides, strict=True):
        assert [row["train_index"] for row in answer[side]] == [index for index, _, _ in rows]
        for row, (_, score, shares) in zip(answer[side], rows, strict=True):
            assert row["score"] == pytest.approx(score, rel=1e-5)
            told = {word["word"]: word["share"] for word in row["words"]}
            assert told == pytest.approx(shares, rel=1e-4, abs=1e-6 * abs(score))
            assert math.fsum(told.values()) == pytest.approx(row["score"], rel=1e-9)


def memory(server):
    return psutil.Process(server.process.pid).memory_info().rss


def test_fifty_clients_at_once_each_have_their_own_answer(server, known):
    before = memory(server)
    start = threading.Barrier(50)

    def client(number):
        text = ASKED[number % len(ASKED)]
        start.wait(30)
        return text, server.explain(text=text, k=4)

    with ThreadPoolExecutor(50) as pool:
        for text, answer in pool.map(client, range(50)):
            check(answer, text, known)
    assert memory(server) - before < CEILING


def test_health_is_told_while_questions_wait(server):
    questions = [json.dumps({"texts": ["the cat and a ship"] * 8, "k": 20})] * 3
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(server.ask, "POST", "/explain", one, JSON) for one in questions]
        busy = 0
        while not all(one.done() for one in asked):
            status, _, body = server.ask("GET", "/health")
            busy += json.loads(body)["running"]
            assert status == 200
    assert {one.result()[0] for one in asked} == {200}
    assert busy >= 3  # told several times while an answer was being made


def answers_in(read):
    """(status, headers, body) of each answer in what was read."""
    found = []
    while read:
        head, _, rest = read.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        size = int(headers.get("content-length", 0))
        found.append((int(lines[0].split()[1]), headers, rest[:size]))
        assert len(rest) >= size, (head, len(rest))
        read = rest[size:]
    return [one for one in found if one[0] != 100]


def ask_all(server, requests, known):
    """Send all of them, eight at a time; the statuses by kind."""
    with ThreadPoolExecutor(8) as pool:
        for one, read in zip(requests, pool.map(lambda one: send(server.port, one), requests), strict=True):
            for status, headers, body in answers_in(read):
                one.found.append(status)
                assert status in one.right, (one.kind, status, body[:300], one.pieces[0][:300])
                assert b"Traceback" not in body
                assert b"/tmp" not in body
                if headers["content-type"] == "application/json":
                    told = json.loads(body, parse_constant=lambda name: pytest.fail(name))
                    for row in (told.get("proponents") or []) + (told.get("opponents") or []):
                        assert math.fsum(word["share"] for word in row["words"]) == pytest.approx(
                            row["score"], rel=1e-9
                        )
                if status >= 400 and headers["content-type"] == "application/json":
                    assert list(json.loads(body)) == ["error"]
            if one.right:
                assert one.found, (one.kind, one.pieces[0][:300])
    check(server.explain(text=ASKED[0], k=4), ASKED[0], known)


@pytest.mark.parametrize("count", [180, pytest.param(1000, marks=pytest.mark.slow)])
def test_after_hostile_requests_the_server_answers_rightly_and_is_no_larger(server, known, count):
    requests = hostile(seed=0, count=count)
    before = memory(server)
    ask_all(server, requests, known)
    assert memory(server) - before < CEILING
    statuses = [status for one in requests for status in one.found]
    assert not [status for status in statuses if status >= 500 and status not in (503, 504)]
    assert {200, 400, 404, 405, 415, 422} <= set(statuses)
    idle = {"status": "ok", "waiting": 0, "running": False}
    deadline = time.monotonic() + 60  # some have left while their question was being answered
    while json.loads(server.ask("GET", "/health")[2]) != idle:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert psutil.Process(server.process.pid).num_threads() < 20


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_hostile_requests(folder, known):
    server = Process(folder)
    try:
        sizes = []
        for seed in range(1, 4):
            ask_all(server, hostile(seed, 500), known)
            sizes.append(memory(server))
        assert max(sizes) - sizes[0] < CEILING / 3, sizes
        assert server.errors == []
    finally:
        server.close()


@pytest.mark.slow
def test_who_sends_slowly_or_takes_no_answer_is_let_go_and_others_are_answered(server, known):
    """Half a head, half a body, an answer that nobody reads: 40 of each at once."""
    body = json.dumps({"text": "the cat", "k": 20}).encode()
    whole = request(body=body, headers={"Connection": None})
    with contextlib.ExitStack() as stack:
        held = []
        for piece in [whole[:30], whole[:-5], b""] * 40:
            held.append(stack.enter_context(socket.create_connection((HOST, server.port), 30)))
            held[-1].sendall(piece)
        check(server.explain(text=ASKED[1], k=4), ASKED[1], known)
        start = time.monotonic()
        halves = held[1::3]
        for connection in halves:  # of these the body does not come within ten seconds
            read = b""
            while part := connection.recv(1 << 16):
                read += part
            assert read.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - start < 20
        check(server.explain(text=ASKED[2], k=4), ASKED[2], known)


@pytest.mark.slow
def test_a_connection_that_does_nothing_is_closed(server):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection((HOST, server.port), 60)) for _ in range(2)]
        held[0].sendall(b"GET / HT")
        start = time.monotonic()
        for _ in range(40):  # a byte now and then is nothing, too
            with contextlib.suppress(OSError):
                held[0].sendall(b"T")
            time.sleep(1)
            held[0].setblocking(False)
            try:
                if held[0].recv(10) == b"":
                    break
            except BlockingIOError:
                pass
            except ConnectionResetError:
                break
        assert time.monotonic() - start < 30
        held[1].settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert held[1].recv(10) == b""


def test_more_connections_than_the_limit_are_turned_away(server, known):
    with contextlib.ExitStack() as stack:
        for _ in range(256):
            stack.enter_context(socket.create_connection((HOST, server.port), 30))
        time.sleep(0.3)
        with socket.create_connection((HOST, server.port), 30) as one:
            read = one.recv(1 << 16)
        assert read.startswith(b"HTTP/1.1 503 ")
        assert b"Too many connections" in read
    deadline = time.monotonic() + 30
    while (
        server.ask("GET", "/health")[0] == 503 and time.monotonic() < deadline
    ):  # it has not seen yet that all have left
        time.sleep(0.05)
    check(server.explain(text=ASKED[3], k=4), ASKED[3], known)


def test_questions_whose_askers_have_left_are_not_answered(server, known):
    body = json.dumps({"texts": ["the cat and a ship"] * 8, "k": 20}).encode()
    for _ in range(60):
        with socket.create_connection((HOST, server.port), 30) as one:
            one.sendall(request(body=body, headers={"Connection": None}))
    start = time.monotonic()
    check(server.explain(text=ASKED[4], k=4), ASKED[4], known)
    assert time.monotonic() - start < 10


@pytest.mark.slow
def test_ctrl_c_ends_it(folder):
    # A parent may have it ignored, as a script in the background does.
    server = Process(folder, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    server.explain(text="the cat")
    os.kill(server.process.pid, signal.SIGINT)
    assert server.process.wait(120) == 130
    time.sleep(0.2)
    assert [line.strip() for line in server.errors if line.strip()] == ["captum-tracinwe serve: stopped."]


@pytest.mark.slow
def test_in_the_background_of_a_script_it_does_not_hear_ctrl_c_and_ends_when_told_to(folder):
    server = Process(folder, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    os.kill(server.process.pid, signal.SIGINT)
    time.sleep(1)
    server.explain(text="the cat")
    assert server.close() == -signal.SIGTERM


@pytest.mark.skipif(BROWSER is None, reason="no chromium")
def test_a_browser_asks_by_the_form_and_shows_the_answer(server, known, tab):
    tab.errors.clear()
    tab.ask("window.before = true")
    tab.do("Page.navigate", url=f"http://{HOST}:{server.port}/")
    tab.until("!window.before && document.readyState === 'complete'")
    tab.ask(f"window.before = true; document.querySelector('#text').value = '{ASKED[5]}'; undefined")
    tab.ask("document.querySelector('button').click()")
    tab.until("!window.before && document.readyState === 'complete'")
    label, sides = known[ASKED[5]]
    assert tab.ask("document.querySelector('.lead b').textContent") == ("boats", "pets")[label]
    shown = tab.ask("[...document.querySelectorAll('h4')].map(one => one.textContent)")
    lines = [f"Line {index + 2} of the training file" for side in sides for index, _, _ in side]
    assert set(lines) <= set(shown)
    assert tab.ask("document.querySelector('#text').value") == ASKED[5]
    for width in (1400, 400):
        tab.look(width, 900, False)
        assert tab.ask("document.documentElement.scrollWidth <= innerWidth")
    assert tab.errors == []
