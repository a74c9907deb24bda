"""Requests that mean a server harm: bytes to send, how they are sent, and which answers are right."""

from __future__ import annotations

import json
import random
import socket
import time
from dataclasses import dataclass, field

from hostile import HOSTILE

HOST = "127.0.0.1"
ANY = frozenset(range(400, 432)) | {408}
BUSY = {503, 504}
PATHS = [
    *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/./about/../../x"),
    *("/explain/../etc", "/\\..\\..\\windows", "/%00", "/about%00.html", "/static/x.js", "/docs", "/redoc"),
    *("/openapi.json", "/favicon.ico", "/.git/config", "/.env", "/index/manifest.json", "/explain/", "/ABOUT"),
    *("/%C0%AE%C0%AE/", "/" + "a" * 3000, "/~root", "/etc/passwd", "/proc/self/environ", "/C:/", "/%252e%252e/"),
    *("/?/../etc/passwd%00", "/a;b", "/\x7f"),
]
ODD = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2.5,
        1e308,
        "",
        " ",
        "pets",
        "boats",
        "dogs",
        [],
        {},
        [[]],
        [None],
        ["a"],
        ["a", "b"],
    ),
    *({"a": 1}, 10**17, "x" * 9999, "x" * 10_001, "\x00", "\u202e\u2066", "\U0001f408" * 500, "../../etc/passwd"),
    *("${jndi:ldap://x}", "' OR 1=1 --", "{{7*7}}", "<script>alert(1)</script>", "%s%n", "[PAD]", "[CLS] [SEP]"),
    *("##ing", "a" * 5000 + " cat"),
]
FIELDS = ["text", "texts", "label", "labels", "k"]
NAMES = [*FIELDS, "path", "index", "model", "__class__", "__proto__", "file", "", "text\x00", "Text"]
NOT_JSON = [
    *(b"", b"{", b"}", b"null", b"[]", b'"a"', b"NaN", b"{'text': 'a'}", b'{"text": "a",}', b'{"text": "a"}x', b"\x00"),
    *(b"\xff\xfe", b"[" * 100_000, b'{"a":' * 40_000, b'{"text": "a", "text": "b"}', b'{"text": "a", "k": NaN}'),
    *(b'{"text": "a", "k": 1e99999}', b'{"text": "\\ud800"}', b'{"text": "\\udc00\\ud800"}', b'{"text": "a\n"}'),
    *(b'{"text": "a", "k": ' + b"9" * 200_000 + b"}", b'{"text": "\xc3\x28"}', b'\xef\xbb\xbf{"text": "a"}'),
    *('{"text": "a"}'.encode("utf-16"), '{"text": "a"}'.encode("utf-32"), b'{"\\u0074ext": "a", "text": "b"}'),
    *(b'{"text": "\\x"}', b'{"k": 1' + b', "k": 1' * 20_000 + b"}", b" " * 270_000),
]
LINES = [
    *("GET /", "GET / HTTP/9.9", "GET  /  HTTP/1.1", " GET / HTTP/1.1", "GET / HTTP/1.1\x00", "/ GET HTTP/1.1"),
    *("GET /\x01 HTTP/1.1", "GET /\t HTTP/1.1", "G\x00T / HTTP/1.1", "GET / http/1.1", "GET /é HTTP/1.1"),
    "GET / HTTP/1.1 x",
]
METHODS = ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "X" * 500, "get", "GE\tT"]
HEADERS = [
    *({f"X-{i}": "a" * 10 for i in range(2000)}, {"X": "a" * 70_000}, {"X\x00": "a"}, {"X Y": "a"}, {"X": "a\x00b"}),
    *({"X": "a\r\nContent-Length: 5"}, {"Content-Length": "5\r\nContent-Length: 6"}, {"Expect": "200-ok"}, {"": "a"}),
    *({"Transfer-Encoding": "gzip"}, {"Transfer-Encoding": "chunked, identity"}, {"Upgrade": "websocket"}),
]
HOSTS = ["evil.example", "127.0.0.1.evil.example", "a@127.0.0.1", "127.0.0.1 evil", "[::ffff:1]", "é", "x" * 9000]
LENGTHS = ["-1", "1e3", "0x10", "9" * 40, "99999999999", "+5", "5 5", "", "５", "262145"]
CHUNKS = [
    *((b"zz\r\n",), (b"-1\r\n",), (b"FFFFFFFFFFFFFFFFFFFFFFFF\r\na",), (b"2\r\n{}xx0\r\n\r\n",)),
    *((b"2;" + b"x" * 40_000 + b"\r\n{}\r\n0\r\n\r\n",), (b"10000\r\n" + b" " * 65536 + b"\r\n",) * 30),
    *((b"1\r\n \r\n",) * 20 + (b"0\r\n\r\n",), (b"2\r\n{}\r\n0\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",)),
]
KINDS = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "application/xml"]
FORMS = [
    *(b"text=", b"text=%FF", b"text=%00&k=1", b"text=a&text=b", b"text=a&k=99", b"text=a&label=7", b"path=/etc/passwd"),
    *(b"&" * 5000, b"text=" + b"%41" * 60_000, b"text=a&label=%00", b"text=%F0%9F%90%88+cat&k=2", b"text=%3Cb%3E&k=1"),
]


@dataclass(frozen=True)
class Hostile:
    """Pieces of bytes, with a pause before each but the first.

    Args:
        right (set of int): statuses that are right; none: no answer has to come.
        pause (float): seconds.
        leaves (bool): the client closes as soon as all is sent.
        answers (int): how many answers come.
    """

    kind: str
    pieces: tuple[bytes, ...]
    right: frozenset[int] = frozenset()
    pause: float = 0.0
    leaves: bool = False
    answers: int = 1
    found: list[int] = field(default_factory=list)


def request(method="POST", path="/explain", body=b"", headers=(), host=None, version="1.1", kind="application/json"):
    """The bytes of a request; a header that is None is left out."""
    given = {"Host": host or HOST, "Connection": "close"}
    if body or method == "POST":
        given |= {"Content-Type": kind, "Content-Length": str(len(body))}
    given |= dict(headers)
    lines = [
        f"{method} {path} HTTP/{version}",
        *(f"{name}: {value}" for name, value in given.items() if value is not None),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def hostile(seed: int, count: int):
    """``count`` requests of all kinds, drawn."""
    draw = random.Random(seed)
    kinds = [
        *(
            _noise,
            _lines,
            _paths,
            _methods,
            _headers,
            _hosts,
            _lengths,
            _chunks,
            _not_json,
            _questions,
            _fields,
            _kinds,
        ),
        *(_forms, _left, _pipelined, _questions, _fields, _questions),
    ]
    return [kinds[number % len(kinds)](draw) for number in range(count)]


def _noise(draw):
    data = draw.choice(
        [
            draw.randbytes(draw.randint(1, 3000)),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(500),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"\r\n" * 50 + b"\x00",
            b"\x05\x01\x00",
            b"A" * 30_000,
        ]
    )
    return Hostile("noise", (data + b"\r\n\r\n",), ANY)


def _lines(draw):
    rest = f"\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
    return Hostile("line", ((draw.choice(LINES) + rest).encode(),), ANY | {200})


def _paths(draw):
    path = draw.choice(PATHS) + draw.choice(["", "", "?x=1", "#a", "?" + "q" * 2000])
    return Hostile("path", (request("GET", path),), ANY | ({200} if path.startswith("/?") else set()))


def _methods(draw):
    return Hostile("method", (request(draw.choice(METHODS), draw.choice(["/", "/explain", "/about", "*"])),), ANY)


def _headers(draw):
    return Hostile("header", (request(body=b'{"text": 1}', headers=draw.choice(HEADERS)),), ANY)


def _hosts(draw):
    host, headers = draw.choice(HOSTS), {"Host": None} if draw.random() < 0.2 else {}
    if draw.random() < 0.3:
        host, headers = (
            HOST,
            {"Origin": draw.choice(["http://evil.example", "null", "file://", "http://127.0.0.1.evil"])},
        )
    return Hostile("host", (request(body=b'{"text": "a"}', host=host, headers=headers),), ANY)


def _lengths(draw):
    return Hostile("length", (request(body=b'{"text": 1}', headers={"Content-Length": draw.choice(LENGTHS)}),), ANY)


def _chunks(draw):
    head = request(headers={"Content-Length": None, "Transfer-Encoding": "chunked"})
    return Hostile("chunks", (head, *draw.choice(CHUNKS)), ANY)


def _not_json(draw):
    return Hostile("no JSON", (request(body=draw.choice(NOT_JSON)),), ANY)


def _questions(draw):
    """Whole questions of odd values: a right answer, or a refusal in words."""
    given = {name: draw.choice(ODD) for name in draw.sample(FIELDS, draw.randint(1, 3))}
    if draw.random() < 0.4:
        given = {"text": draw.choice([*HOSTILE, "the cat and a ship"])[:12_000], "k": draw.choice([1, 3, 20])}
    body = json.dumps(given, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    return Hostile("question", (request(body=body),), ANY | {200} | BUSY)


def _fields(draw):
    given = {draw.choice(NAMES): draw.choice(ODD) for _ in range(draw.randint(1, 12))}
    return Hostile("fields", (request(body=json.dumps(given).encode()),), ANY | {200} | BUSY)


def _kinds(draw):
    headers = {"Content-Encoding": draw.choice(["gzip", "br", "deflate, gzip"])} if draw.random() < 0.3 else {}
    body = b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>"
    return Hostile("kind", (request(body=body, kind=draw.choice(KINDS), headers=headers),), ANY)


def _forms(draw):
    body = draw.choice(FORMS)
    kind = "application/x-www-form-urlencoded"
    return Hostile("form", (request(path="/", body=body, kind=kind),), ANY | {200} | BUSY)


def _left(draw):
    """Requests of which a part never comes."""
    whole = request(body=json.dumps({"text": "the cat and the ship", "k": 20}).encode(), headers={"Connection": None})
    size = len(whole) if draw.random() < 0.4 else draw.randint(0, len(whole))
    return Hostile("left", (whole[: size // 2], whole[size // 2 : size]), pause=0.01, leaves=True)


def _pipelined(draw):
    one = request("GET", "/health", headers={"Connection": None})
    asked = request(body=b'{"text": "a cat"}', headers={"Connection": None})
    last = draw.choice(
        [request("GET", "/none"), request(body=b"{", headers={"Content-Length": "1"}), b"\x00\x01\r\n\r\n"]
    )
    return Hostile("pipelined", (one + asked + one + last,), ANY | {200} | BUSY, answers=4)


def send(port: int, one: Hostile, timeout: float = 60.0) -> bytes:
    """Send it; all that comes back until the other side closes."""
    with socket.create_connection((HOST, port), timeout) as connection:
        try:
            for number, piece in enumerate(one.pieces):
                if number and one.pause:
                    time.sleep(one.pause)
                connection.sendall(piece)
            if one.leaves:
                return b""
        except (BrokenPipeError, ConnectionResetError):
            pass  # it had enough, and may have said so
        read = b""
        try:
            while piece := connection.recv(1 << 16):
                read += piece
        except ConnectionResetError:
            pass
        return read
