"""`captum-tracinwe serve`: its answers are those of TracInWE, what it refuses, and its limits; without a network."""

import asyncio
import json
import math
import socket
import sys
import threading
import time
import warnings
from dataclasses import replace

import pytest
from captum_tracinwe.testing import toy_tracin
from serve_cases import JSON, NAMES, Direct, made, settings_of

from captum_tracinwe.app import serve_command
from captum_tracinwe.app.asked_index import AskedIndex
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.given_model import Classes
from captum_tracinwe.app.serve_command import prepared_answers
from captum_tracinwe.app.serving.api import make_app
from captum_tracinwe.app.serving.asking import Reader
from captum_tracinwe.app.serving.limits import Limits
from captum_tracinwe.app.serving.running import LOCAL, address_of, bound, is_local
from captum_tracinwe.app.serving.turns import Turns
from captum_tracinwe.explanation.taught import taught_by
from captum_tracinwe.words.texts import TokenizedText

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SHORT = Limits(seconds=1, waiting=2, body_bytes=2000, characters=300, body_seconds=1)


class Client:
    """Asks an application in this process, one request after the other."""

    def __init__(self, answers, limits=SHORT, names=LOCAL):
        self.turns = Turns(limits.waiting)
        self.app = make_app(answers, self.turns, limits, names)

    def __call__(self, method, path, body=b"", headers=None):
        return asyncio.run(self.asked(method, path, body, headers))

    async def asked(self, method, path, body=b"", headers=None):
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, content=body, headers=headers or {})

    def explain(self, **question):
        return self("POST", "/explain", json.dumps(question), JSON)


class Stub:
    """Answers without a model: what the text says is done."""

    reader = Reader(Classes(NAMES, {"boats": 0, "pets": 1}, ""), False, SHORT)

    def __init__(self):
        self.asked, self.go = [], threading.Event()

    def about(self):
        return {"about": 1}

    def data(self, question):
        self.asked.append(question.texts[0])
        if question.texts[0] == "wait":
            self.go.wait(20)
        if question.texts[0] == "fail":
            raise OSError("/home/somebody/steps/step-1.pt: gone")
        return json.dumps({"text": question.texts[0]}).encode()

    page = data

    def empty_page(self, refused="", body=b""):
        return f"<p>{refused}".encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(folder):
    limits = Limits(seconds=30)
    return Client(prepared_answers(settings_of(folder, limits=limits), lambda _: None), limits)


@pytest.fixture
def stub():
    answers = Stub()
    client = Client(answers)
    client.answers = answers
    yield client
    answers.go.set()
    assert client.turns.close(10)


# ------------------------------------------------------------------------------------------------------------ answers


def check(answer, direct, text, label, k):
    """An answer is that of TracInWE asked directly."""
    for side, pairs in zip(("proponents", "opponents"), direct.pairs(text, label, k), strict=True):
        assert [row["train_index"] for row in answer[side]] == [pair.train_index for pair in pairs], side
        assert [row["rank"] for row in answer[side]] == list(range(1, len(pairs) + 1))
        for row, pair in zip(answer[side], pairs, strict=True):
            assert row["score"] == pytest.approx(pair.score, rel=1e-5)
            told = {(word["word"], word["special"]): word["share"] for word in row["words"]}
            shares = {(word.text, word.special): word.share for word in pair.words()}
            assert told == pytest.approx(shares, rel=1e-4, abs=1e-6 * abs(pair.score))
            assert math.fsum(told.values()) == pytest.approx(row["score"], rel=1e-9)


@pytest.mark.parametrize("label", [None, "pets", "boats", 0, 1])
@pytest.mark.parametrize("k", [1, 5])
def test_an_answer_is_that_of_tracin_we_asked_directly(served, folder, label, k):
    direct = Direct(folder)
    text = "the cat sat on the mast and the tail of a ship"
    found = served.explain(text=text, label=label, k=k)
    assert found.status_code == 200
    answer = found.json()
    (own,) = direct.answers([text])
    asked = own if label is None else {"boats": 0, "pets": 1}.get(label, label)
    assert (answer["text"], answer["label"], answer["prediction"]) == (text, NAMES[asked], NAMES[own])
    assert [one["label"] for one in answer["probabilities"]] == list(NAMES)
    assert math.fsum(one["probability"] for one in answer["probabilities"]) == pytest.approx(1)
    assert answer["probability"] == answer["probabilities"][asked]["probability"]
    assert answer["proponents"]
    assert answer["opponents"]
    check(answer, direct, text, asked, k)
    for row in answer["proponents"] + answer["opponents"]:
        assert row["train_text"] == direct.train[row["train_index"]]
        assert row["train_line"] == row["train_index"] + 2
        for word in row["words"]:
            assert all(row["train_text"][slice(*span)] == word["word"] for span in word["train_spans"])


def test_several_texts_are_answered_as_each_alone(served):
    texts, labels = ["the cat", "a ship and a dog", "the deck"], ["boats", None, 1]
    found = served.explain(texts=texts, labels=labels, k=3).json()
    assert set(found) == {"schema_version", "command", "package_version", "answers"}
    for text, label, answer in zip(texts, labels, found["answers"], strict=True):
        alone = served.explain(text=text, label=label, k=3).json()
        for side in ("proponents", "opponents"):
            assert [row["train_index"] for row in answer[side]] == [row["train_index"] for row in alone[side]]
            for one, other in zip(answer[side], alone[side], strict=True):
                assert one["score"] == pytest.approx(other["score"], rel=1e-4)
        assert {key: answer[key] for key in ("text", "label", "prediction")} == {
            key: alone[key] for key in ("text", "label", "prediction")
        }
    assert "answers" in served.explain(texts=["the cat"]).json()


def test_pairs_are_asked_about_as_pairs(tmp_path):
    folder = made(tmp_path, pairs=True)
    client = Client(prepared_answers(settings_of(folder, pairs=True), lambda _: None), Limits(seconds=30))
    answer = client.explain(text=["the cat paw", "tail"], label="pets", k=4).json()
    assert answer["text"] == "the cat paw │ tail"
    check(answer, Direct(folder), ("the cat paw", "tail"), 1, 4)
    for wrong in ("one text", ["one"], ["a", "b", "c"], ["a", 1], {"a": "b"}):
        assert client.explain(text=wrong).status_code == 422
    assert "expected a list of two strings" in client.explain(text="one text").json()["error"]
    assert client("GET", "/about").json()["pairs"] is True
    page = client("POST", "/", "text=the+cat&second=tail&label=1&k=2", FORM)
    assert page.status_code == 200
    assert "the cat │ tail" in page.text


def test_without_the_training_file_words_are_named_and_texts_are_not_there(folder):
    client = Client(prepared_answers(settings_of(folder, train=None), lambda _: None), Limits(seconds=30))
    answer = client.explain(text="the cat", k=2).json()
    assert {row["train_text"] for row in answer["proponents"]} == {None}
    assert "cat" in {word["word"] for row in answer["proponents"] + answer["opponents"] for word in row["words"]}
    assert client("GET", "/about").json()["train_texts"] is False
    assert "named by their lines" in client("GET", "/").text


def test_texts_with_odd_characters_are_answered(served):
    for text in ("the cat\x00", "\u202ethe cat\u2066", "\U0001f408 cat", "e\u0301" * 50, "Ω" * 900, "]]></script>"):
        found = served.explain(text=text)
        assert found.status_code == 200
        assert found.json()["text"] == text
        assert found.json()["unread"] == [] or len(text) > 10
        assert not any(mark in found.text for mark in "\x00\u202e\u2066")


def test_both_sides_at_once_are_those_that_influence_finds():
    tracin, inputs = toy_tracin()
    with pytest.raises(ValueError, match="taught_by: expected `k`"):
        taught_by(tracin, inputs, 0)
    scores = tracin.influence(inputs)
    for row, pairs in zip(scores, taught_by(tracin, inputs, 3), strict=True):
        for_it = [int(i) for i in row.argsort(descending=True, stable=True) if row[i] > 0][:3]
        against = [int(i) for i in row.argsort(stable=True) if row[i] < 0][:3]
        assert [pair.train_index for pair in pairs] == for_it + against
        assert [pair.score for pair in pairs] == pytest.approx([float(row[i]) for i in for_it + against], rel=1e-4)


# ------------------------------------------------------------------------------------------------------- what is told


def test_about_says_what_there_is_and_no_path(served, folder):
    told = served("GET", "/about")
    about = told.json()
    assert about["index"]["examples"] == 24
    assert about["index"]["checkpoints"] == [{"name": "step-1.pt", "learning_rate": 0.1}]
    assert about["classes"] == [{"number": 0, "name": "boats"}, {"number": 1, "name": "pets"}]
    assert about["limits"]["k"] == 20
    assert str(folder) not in told.text
    assert served("GET", "/health").json() == {"status": "ok", "waiting": 0, "running": False}


def test_every_answer_has_the_headers_that_keep_a_browser_from_harm(served):
    for found in (served("GET", "/"), served("GET", "/none"), served("GET", "/about"), served.explain(text=1)):
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in found.headers["content-security-policy"]
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in found.headers
        assert "set-cookie" not in found.headers
        assert "server" not in found.headers


# --------------------------------------------------------------------------------------------------------------- page


def test_the_page_has_a_form_and_its_answer_and_nothing_that_loads_or_runs(served):
    empty = served("GET", "/")
    assert empty.status_code == 200
    assert empty.headers["content-type"] == "text/html; charset=utf-8"
    assert '<form method="post" action="/"' in empty.text
    page = served("POST", "/", "text=%3Cscript%3E+cat&label=&k=2", FORM)
    assert page.status_code == 200
    assert "&lt;script&gt; cat</textarea>" in page.text
    assert "The model answers" in page.text
    assert "of the training file" in page.text
    for shown in (empty.text, page.text):
        for never in ("<script", "<img", "<link", "<iframe", "src=", "href=", "onclick", "url("):
            assert never not in shown
    none = served("POST", "/", "text=%3Cb%3E%3F%21+%E2%98%83&k=1", FORM)
    assert none.status_code == 200
    assert "No training text pushed the model either way" in none.text
    assert "&lt;b&gt;?! ☃" in none.text
    asked = served("POST", "/", "text=the+cat&label=0&k=1", FORM).text
    assert "Asked about: <b><bdi>boats</bdi></b> instead." in asked
    assert '<option value="0" selected>boats</option>' in asked


def test_the_page_and_the_data_name_the_same_training_texts(served):
    data = served.explain(text="a ship\nand a cat", label="boats", k=3).json()
    page = served("POST", "/", "text=a+ship%0D%0Aand+a+cat&label=0&k=3", FORM).text
    for row in data["proponents"] + data["opponents"]:
        assert f"Line {row['train_line']} of the training file" in page
    assert page.count('<article class="card">') == len(data["proponents"] + data["opponents"])


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("text=&k=2", 422, "The text is empty"),
        ("text=cat&k=21", 422, "`k` is 21"),
        ("text=cat&k=two", 422, "`k` is a string"),
        ("text=cat&label=2", 422, "`label` is"),
        ("text=cat&label=pets", 422, "`label` is"),
        ("text=cat&text=dog", 422, "stands there twice"),
        ("text=cat&path=%2Fetc", 422, "There is no field"),
        ("text=%FF", 400, "no form in UTF-8"),
        ("text", 400, "no form in UTF-8"),
        ("&".join(f"a{i}=1" for i in range(99)), 400, "no form in UTF-8"),
    ],
)
def test_a_form_that_is_none_of_the_page_is_refused_on_the_page(served, body, status, said):
    found = served("POST", "/", body, FORM)
    assert found.status_code == status
    assert 'role="alert"' in found.text
    assert said in found.text.replace("&#x27;", "'")
    assert "form" in found.text


# ------------------------------------------------------------------------------------------------------------ refused

REFUSED = [
    (b"", 400, "is not JSON"),
    (b"{", 400, "is not JSON"),
    (b'{"text": "a"} {}', 400, "is not JSON"),
    (b"\xff\xfe{}", 400, "Byte 0 of the body is not UTF-8"),
    ('{"text": "a"}'.encode("utf-16"), 400, "not UTF-8"),
    (b"\xef\xbb\xbf{}", 400, "is not JSON"),
    (b"[" * 1999, 400, "nested too deeply"),
    (b'{"text": "a", "text": "b"}', 400, "The field 'text' stands there twice"),
    (b'{"text": "a", "k": NaN}', 400, "NaN, which JSON does not have"),
    (b'{"text": "a", "k": -Infinity}', 400, "-Infinity, which JSON does not have"),
    (b"[]", 422, "The body is a list"),
    (b'"text"', 422, "The body is a string"),
    (b"null", 422, "The body is a null"),
    (b"{}", 422, "Expected `text`, or `texts`"),
    (b'{"text": "a", "texts": ["b"]}', 422, "one of the two"),
    (b'{"text": "a", "file": "/etc/passwd"}', 422, "There is no field 'file'; expected text, label, texts, labels, k"),
    (b'{"text": "a", "__proto__": {}}', 422, "There is no field '__proto__'"),
    (b'{"text": 1}', 422, "`text` is a number; expected a string"),
    (b'{"text": null}', 422, "`text` is a null; expected a string"),
    (b'{"text": ["a", "b"]}', 422, "`text` is a list; expected a string"),
    (b'{"text": " \\n"}', 422, "`text` is empty"),
    (b'{"text": "\\ud800"}', 422, "half a character (U+D800)"),
    (b'{"text": "' + b"a" * 301 + b'"}', 422, "`text` has 301 characters; expected at most 300"),
    (b'{"text": "a", "k": 0}', 422, "`k` is 0; expected a whole number from 1 to 20"),
    (b'{"text": "a", "k": 21}', 422, "`k` is 21; expected a whole number from 1 to 20"),
    (b'{"text": "a", "k": true}', 422, "`k` is a boolean"),
    (b'{"text": "a", "k": 2.0}', 422, "`k` is a number"),
    (b'{"text": "a", "k": 1e999}', 422, "`k` is a number"),
    (b'{"text": "a", "k": ' + b"9" * 1900 + b"}", 422, "has 1,900 digits"),
    (b'{"text": "a", "label": "dogs"}', 422, "`label` is 'dogs'; expected the name of a class ('boats', 'pets')"),
    (b'{"text": "a", "label": "\\ud800\\u001b[31m"}', 422, "`label` is "),
    (b'{"text": "a", "label": 2}', 422, "`label` is 2"),
    (b'{"text": "a", "label": -1}', 422, "`label` is -1"),
    (b'{"text": "a", "label": false}', 422, "`label` is a boolean"),
    (b'{"text": "a", "label": ["pets"]}', 422, "`label` is a list"),
    (b'{"text": "a", "labels": ["pets"]}', 422, "`labels` goes with `texts`"),
    (b'{"texts": ["a"], "label": "pets"}', 422, "`label` goes with `text`"),
    (b'{"texts": "a"}', 422, "`texts` is a string"),
    (b'{"texts": []}', 422, "`texts` has 0 of them"),
    (b'{"texts": ["a","a","a","a","a","a","a","a","a"]}', 422, "`texts` has 9 of them; expected 1 to 8"),
    (b'{"texts": ["a", 2]}', 422, "`texts[1]` is a number"),
    (b'{"texts": ["a", "b"], "labels": [null]}', 422, "`labels` has 1 of them"),
    (b'{"texts": ["a"], "labels": null}', 422, "`labels` is a null"),
]


@pytest.mark.parametrize(("body", "status", "said"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_question_is_refused_in_words(stub, body, status, said):
    found = stub("POST", "/explain", body, JSON)
    assert (found.status_code, list(found.json())) == (status, ["error"])
    assert said in found.json()["error"]
    assert found.content.isascii()
    assert not any(ord(character) < 32 for character in found.text.removesuffix("\n"))
    assert stub.answers.asked == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/explain", {}, 405),
        ("DELETE", "/", {}, 405),
        ("POST", "/about", {}, 405),
        ("GET", "/none", {}, 404),
        ("GET", "/explain/", {}, 404),
        ("GET", "/docs", {}, 404),
        ("GET", "/openapi.json", {}, 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", {}, 404),
        ("GET", "/about%00", {}, 404),
        ("POST", "/explain", {}, 415),
        ("POST", "/explain", {"Content-Type": "text/plain"}, 415),
        ("POST", "/explain", {"Content-Type": "application/json; charset=utf-16"}, 415),
        ("POST", "/explain", {**JSON, "Content-Encoding": "gzip"}, 415),
        ("POST", "/", JSON, 415),
        ("GET", "/", {"Host": "evil.example"}, 421),
        ("GET", "/", {"Host": "127.0.0.1.evil.example:8000"}, 421),
        ("GET", "/", {"Host": "a@127.0.0.1"}, 400),
        ("GET", "/", {"Host": ""}, 400),
        ("POST", "/explain", {**JSON, "Origin": "http://evil.example"}, 403),
        ("POST", "/explain", {**JSON, "Origin": "null"}, 403),
        ("POST", "/explain", {**JSON, "Sec-Fetch-Site": "cross-site"}, 403),
        ("POST", "/explain", {**JSON, "Origin": "http://127.0.0.1:8000"}, 200),
        ("POST", "/explain", {**JSON, "Host": "localhost:1"}, 200),
        ("HEAD", "/", {}, 200),
    ],
)
def test_other_methods_places_and_headers(stub, method, path, headers, status):
    found = stub(method, path, b'{"text": "a"}', headers)
    assert found.status_code == status
    if status >= 400 and not (path == "/" and status == 415):
        assert found.json()["error"]
    if status == 405:
        assert found.headers["allow"]
    assert len(stub.answers.asked) == (status == 200 and method == "POST")


def test_a_server_for_others_takes_any_host_and_no_foreign_page():
    client = Client(Stub(), names=None)
    assert client("GET", "/health", headers={"Host": "server.example"}).status_code == 200
    wrong = {**JSON, "Host": "server.example", "Origin": "http://evil.example"}
    assert client("POST", "/explain", b'{"text": "a"}', wrong).status_code == 403
    assert (
        client("POST", "/explain", b'{"text": "a"}', {**wrong, "Origin": "https://server.example"}).status_code == 200
    )


def test_no_path_of_a_request_is_opened(served):
    opened, watching = [], [True]

    def hook(event, arguments):
        if watching[0] and event in ("open", "os.listdir", "os.scandir", "glob.glob", "import"):
            opened.append(repr(arguments))

    sys.addaudithook(hook)
    try:
        for path in ("/marked-file", "/../marked-file", "/%2e%2e/marked-file", "/explain?text=marked-file"):
            served("GET", path)
        for question in ({"text": "/tmp/marked-file"}, {"text": "a", "label": "../marked-file"}, {"marked-file": 1}):
            served.explain(**question)
        served("POST", "/", "text=%2Ftmp%2Fmarked-file", FORM)
    finally:
        watching[0] = False
    assert opened  # the checkpoint, at least
    assert not [one for one in opened if "marked" in one]


# ------------------------------------------------------------------------------------------------------------- limits


def chunks(*pieces, pause=0.0):
    async def body():
        for piece in pieces:
            yield piece
            await asyncio.sleep(pause)

    return body()


def test_a_body_is_counted_while_it_is_read(stub):
    read = []

    async def endless():
        while len(read) < 10_000:
            read.append(1)
            yield b" " * 1000

    found = stub("POST", "/explain", endless(), JSON)
    assert found.status_code == 413
    assert "more than 2,000 bytes" in found.json()["error"]
    assert len(read) < 50
    assert stub("POST", "/explain", b" " * 2001, JSON).status_code == 413
    assert stub("POST", "/explain", chunks(b'{"text":', b' "a"}'), JSON).status_code == 200
    assert stub("POST", "/explain", b'{"text": "a"}', {**JSON, "Content-Length": "1" * 30}).status_code == 413


def test_a_body_that_does_not_come_is_not_waited_for(stub):
    start = time.monotonic()
    found = stub("POST", "/explain", chunks(*[b" "] * 50, pause=0.1), JSON)
    assert found.status_code == 408
    assert time.monotonic() - start < 4


def test_what_takes_too_long_is_given_up_and_the_next_answer_is_its_own(stub):
    found = stub.explain(text="wait")
    assert found.status_code == 504
    assert "not there after 1 s" in found.json()["error"]
    assert stub("GET", "/health").json()["running"] is True
    assert stub.explain(text="later").status_code == 504  # it waits for the one that still runs
    assert stub("GET", "/health").json()["waiting"] == 0
    stub.answers.go.set()
    assert stub.explain(text="now").json() == {"text": "now"}
    assert stub.answers.asked == ["wait", "now"]


def test_who_comes_when_the_line_is_full_is_told_when_to_come_again(stub):
    async def crowd():
        body = [json.dumps({"text": text}) for text in ("wait", "a", "b", "c", "d")]
        first = asyncio.ensure_future(stub.asked("POST", "/explain", body[0], JSON))
        while stub.answers.asked != ["wait"]:
            await asyncio.sleep(0.01)
        rest = [asyncio.ensure_future(stub.asked("POST", "/explain", one, JSON)) for one in body[1:]]
        deadline = time.monotonic() + 20
        while (health := (await stub.asked("GET", "/health")).json())["waiting"] < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        stub.answers.go.set()
        return health, await asyncio.gather(first, *rest)

    health, found = asyncio.run(crowd())
    assert health == {"status": "ok", "waiting": 2, "running": True}
    assert sorted(one.status_code for one in found) == [200, 200, 200, 503, 503]
    for one in found:
        if one.status_code == 503:
            assert 1 <= int(one.headers["retry-after"]) <= 60
            assert "questions wait already" in one.json()["error"]
    assert len(stub.answers.asked) == 3


def test_an_error_of_the_server_says_nothing_of_it(stub, capsys):
    for found in (stub.explain(text="fail"), stub("POST", "/", "text=fail", FORM)):
        assert found.status_code == 500
        assert "somebody" not in found.text
        assert "Traceback" not in found.text
    told = capsys.readouterr().err.splitlines()
    assert told == ["captum-tracinwe serve: error: OSError: /home/somebody/steps/step-1.pt: gone"] * 2
    assert stub.explain(text="next").json() == {"text": "next"}


def test_a_server_that_ends_drops_those_who_wait():
    turns = Turns(5)
    go = threading.Event()
    first, second = turns.ask(lambda: go.wait(20)), turns.ask(lambda: True)
    while not first.running():
        time.sleep(0.01)
    assert not turns.leave(first)
    assert turns.close(0.01) is False
    assert second.cancelled()
    go.set()
    assert turns.close(10) is True
    assert first.result() is True


def test_a_model_that_answers_no_number_is_an_error_before_anything_is_served(folder, monkeypatch):
    answers = prepared_answers(settings_of(folder), lambda _: None)
    handle = answers.asked.model.classifier.register_forward_hook(lambda module, inputs, output: output * math.nan)
    try:
        with pytest.raises(ValueError, match="its answer is not finite"):
            answers.data(answers.reader.of_json(b'{"text": "the cat"}'))
    finally:
        handle.remove()


def test_a_text_without_a_token_is_refused_and_no_error_of_the_server(served, monkeypatch):
    monkeypatch.setattr(AskedIndex, "tokenized", lambda *_: [TokenizedText("\u200b", (), (), ())])
    for found in (served.explain(text="\u200b\u2063"), served("POST", "/", "text=a", FORM)):
        assert found.status_code == 422
        assert "has no token for the model" in found.text


def test_of_a_long_training_text_an_answer_has_what_the_model_read(folder):
    answers = prepared_answers(settings_of(folder), lambda _: None)
    short = replace(answers, limits=replace(answers.limits, characters=7))
    question = answers.reader.of_json(b'{"text": "the cat"}')
    told, whole = json.loads(short.data(question)), json.loads(answers.data(question))
    assert told == whole
    train = replace(
        answers.asked.shown, texts=tuple(f"{text} {'the ' * 12} {'z' * 99}" for text in answers.asked.shown.texts)
    )
    longer = replace(short, asked=replace(answers.asked, shown=train))
    for row in json.loads(longer.data(question))["proponents"]:
        assert row["train_text"].endswith(" the")
        assert all(span[1] <= len(row["train_text"]) for word in row["words"] for span in word["train_spans"])


# ------------------------------------------------------------------------------------------------------------ command


def test_addresses():
    with bound("127.0.0.1", 0) as local, bound("0.0.0.0", 0) as open_to_all:
        assert is_local(local)
        assert not is_local(open_to_all)
        port = local.getsockname()[1]
        assert address_of(local) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ValueError, match=rf"--port {port}: no server can listen there"):
            bound("127.0.0.1", port)
    with pytest.raises(ValueError, match=r"--host no\.such\.host\.invalid"):
        bound("no.such.host.invalid", 1)
    if socket.has_ipv6:
        try:
            with bound("::1", 0) as six:
                assert is_local(six)
                assert address_of(six).startswith("http://[::1]:")
        except ValueError:
            pass  # a machine without it


def test_who_listens_for_others_is_warned(folder, monkeypatch):
    served = []
    monkeypatch.setattr(serve_command, "serve", lambda *given: served.append(given[2].getsockname()))
    for host, warned in (("127.0.0.1", 0), ("0.0.0.0", 1)):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            serve_command.run(settings_of(folder, host=host, port=0), lambda _: None)
        own = [str(one.message) for one in told if "--host" in str(one.message)]
        assert len(own) == warned
        assert not own or "There is no password and no encryption" in own[0]
    assert [host for host, _ in served] == ["127.0.0.1", "0.0.0.0"]


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_without_the_extra_the_command_says_how_to_install_it(folder, monkeypatch, capsys, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "uvicorn":
        monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.h11_impl", None)
    assert main(["serve", str(folder / "index"), "--model", str(folder / "model")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert 'pip install --no-build-isolation -c constraints.txt -e ".[serve]"' in err
    assert f"pip install {missing}" in err


def test_what_does_not_fit_together_is_told_before_anything_is_served(folder, tmp_path, capsys):
    model = ["--model", str(folder / "model"), "--checkpoints", str(folder / "steps"), "--max-length", "12"]
    (tmp_path / "other.csv").write_text("text,label\nthe cat,pets\n")
    for argv, said in (
        ([str(tmp_path / "none"), *model], "No index at"),
        ([str(folder / "index"), *model, "--train", str(tmp_path / "other.csv")], "expected the 24"),
        ([str(folder / "index"), *model, "--port", "99999"], "expected a whole number from 0 to 65535"),
        ([str(folder / "index"), *model, "--max-k", "0"], "at least 1"),
    ):
        assert main(["serve", *argv, *([] if "--port" in argv else ["--port", "0"])]) == 2
        out, err = capsys.readouterr()
        assert said in err
        assert err.count("\n") == 1
