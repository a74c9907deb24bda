"""Whatever becomes of the terminal, the work is done: other encodings, a reader who leaves, a full disk, no stream at all."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from captum_tracinwe import save_checkpoint
from captum_tracinwe.app import demo, explain_command, training
from captum_tracinwe.app.cli import main
from captum_tracinwe.app.streams import PLAIN, legible_streams

TEXTS = [("the cat sat on the mat — мат", "pets é"), ("a dog barked at the door", "pets é")]
TEXTS += [("the ship left the harbour", "boats שלום"), ("a sail tore in the storm 👩", "boats שלום")]
OWN = [
    "--train",
    "t.jsonl",
    "--test",
    "t.jsonl",
    "--epochs",
    "1",
    "--max-length",
    "12",
    "--k",
    "1",
    "--test-limit",
    "2",
]


@pytest.fixture(autouse=True)
def _texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.jsonl").write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in TEXTS * 4))


def stream(encoding, errors="strict"):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, write_through=True)


class Broken(io.StringIO):
    """A stream that takes so many writes and then fails."""

    def __init__(self, error, writes=0):
        super().__init__()
        self.error, self.left = error, writes

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_command_prints_in_every_encoding(monkeypatch, encoding):
    tokenizer = training.words_tokenizer([text for text, _ in TEXTS])
    model = training.small_bert(len(tokenizer), ("boats שלום", "pets é"), width=32, positions=16)
    with training.quiet_transformers():
        model.save_pretrained("мodel")
        tokenizer.save_pretrained("мodel")
    save_checkpoint("steps/step-1.pt", model, 0.1)
    own = ["--model", "мodel", "--checkpoints", "steps", "--max-length", "12"]
    for argv, said in (
        (["demo", *OWN, "--out", "é…т.html"], "Page, with 2 answers explained"),
        (["index", "--train", "t.jsonl", "--out", "индекс", *own], "Ask it with"),
        (["query", "--index", "индекс", "--test", "t.jsonl", "--train", "t.jsonl", *own], "Numbers are lines"),
        (["info"], "compiled kernels"),
        (["--help"], "captum-tracinwe"),
    ):
        out, err = stream(encoding), stream(encoding)
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert main(argv) == 0, err.buffer.getvalue()
        assert (out.errors, err.errors) == ("strict", "strict")  # as they were
        shown = out.buffer.getvalue().decode(encoding)
        assert said in shown
        assert err.buffer.getvalue() == b""
        if encoding == "ascii" and argv[0] == "demo":
            assert r"boats \u05e9\u05dc\u05d5\u05dd" in shown
            assert r"explained: \xe9...\u0442.html" in shown
            assert not [line for line in shown.splitlines() if r"\u2588" in line or r"\u2212" in line]
    monkeypatch.setattr(sys, "stdout", stream(encoding))
    err = stream(encoding)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["demo", "--train", "шум.jsonl", "--test", "t.jsonl"]) == 2
    assert err.buffer.getvalue().decode(encoding).endswith(".jsonl: no such file.\n")


def test_what_an_encoding_lacks_is_written_in_it_or_by_number(monkeypatch):
    out = stream("ascii")
    monkeypatch.setattr(sys, "stdout", out)
    with legible_streams():
        print("−1.20 ██ a…b ␛[31m⏎ é \ud800 👩")
    assert out.buffer.getvalue().decode() == "-1.20 ## a...b \\x1b[31m\\n \\xe9 \\ud800 \\U0001f469\n"
    assert all(plain.isascii() and not sign.isascii() for sign, plain in PLAIN.items())


@pytest.mark.parametrize("writes", [0, 1, 3, 5])
@pytest.mark.parametrize(
    ("error", "code"),
    [(BrokenPipeError(errno.EPIPE, "Broken pipe"), 0), (OSError(errno.ENOSPC, "No space left on device"), 1)],
)
def test_a_report_is_written_whoever_reads_the_rest(monkeypatch, writes, error, code):
    err = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Broken(error, writes))
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["demo", *OWN, "--out", "r.html"]) == code
    assert Path("r.html").read_text("utf-8").endswith("</html>\n")
    said = "captum-tracinwe: error: standard output: No space left on device. The work itself was done.\n"
    assert err.getvalue() == (said if code else "")


def test_a_failure_behind_closed_streams_keeps_its_code(monkeypatch):
    for broken in (Broken(BrokenPipeError()), Broken(OSError(errno.ENOSPC, "full")), None):
        monkeypatch.setattr(sys, "stdout", broken)
        monkeypatch.setattr(sys, "stderr", broken)
        assert main(["demo", "--train", "none.jsonl", "--test", "t.jsonl"]) == 2
        assert main(["--what"]) == 2
        assert main(["--help"]) == (1 if broken is not None and broken.error.errno == errno.ENOSPC else 0)


def test_the_report_is_written_before_anything_is_said_of_it():
    """From Python, with a `say` that fails at the first thing that it is told about the explanations."""

    def say(text):
        if "it is right on" in text or "The model is right on" in text or "Page" in text:
            raise UnicodeEncodeError("ascii", "−", 0, 1, "ordinal not in range")

    own = {"train": Path("t.jsonl"), "test": Path("t.jsonl"), "out": Path("r.html")}
    with pytest.raises(UnicodeEncodeError):
        explain_command.run(explain_command.Settings(**own, k=1, epochs=1, max_length=12), say=say)
    assert Path("r.html").read_text("utf-8").endswith("</html>\n")


def test_a_real_pipe_that_nobody_reads_ends_quietly(tmp_path):
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-m", "captum_tracinwe", "info"]
    place = Path(__file__).parents[1]
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, cwd=place, env=environment, text=True, timeout=120
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def ended_by_interrupts(command, tmp_path, place):
    """What a command says and leaves that is interrupted again and again once it is ready."""
    (tmp_path / "tmp").mkdir()
    path = os.pathsep.join([str(place), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path / "tmp")}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment, text=True) as running:
        assert running.stdout.readline() == "ready\n"
        for _ in range(10_000):
            running.send_signal(signal.SIGINT)
            if running.poll() is not None:
                break
            time.sleep(0.002)
        return running.returncode, running.stderr.read(), os.listdir(tmp_path / "tmp")


@pytest.mark.parametrize("way", ["script", "module"])
def test_interrupts_while_torch_is_imported_end_the_command_in_one_line(way, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    (tmp_path / "captum-tracinwe").write_text("from captum_tracinwe.cli import main\nmain()\n")
    command = [sys.executable, str(tmp_path / "captum-tracinwe")]
    command = command if way == "script" else [sys.executable, "-m", "captum_tracinwe"]
    assert ended_by_interrupts([*command, "info"], tmp_path, tmp_path) == (130, "\ncaptum-tracinwe: stopped.\n", [])


SLOW_DEMO = """
from captum_tracinwe.app import cli, demo
def run(settings, say):
    with demo._checkpoint_directory(settings) as directory:
        for number in range(2000):
            open(f"{directory}/{number}", "w").close()
        print("ready", flush=True)
        while True:
            pass
demo.run_planted = run
import sys
import time
sys.exit(cli.main())
"""


def test_a_second_interrupt_changes_nothing_and_leaves_nothing(tmp_path):
    (tmp_path / "captum-tracinwe").write_text(SLOW_DEMO)
    command = [sys.executable, str(tmp_path / "captum-tracinwe"), "demo"]
    assert ended_by_interrupts(command, tmp_path, tmp_path) == (130, "\ncaptum-tracinwe demo: stopped.\n", [])


def test_a_caller_of_the_command_line_keeps_its_handler(monkeypatch):
    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(demo, "run_planted", interrupted)
    for handler in (signal.default_int_handler, signal.SIG_IGN):
        before = signal.signal(signal.SIGINT, handler)
        try:
            assert main(["demo"]) == (130 if callable(handler) and handler is signal.default_int_handler else 0)
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, before)


def test_the_temporary_directory_of_a_demo_goes_whole(monkeypatch):
    original, seen = shutil.rmtree, []

    def interrupted(path, *given, **options):
        signal.raise_signal(signal.SIGINT)
        seen.append(path)
        original(path, *given, **options)

    def work():
        with demo._checkpoint_directory(demo.Settings()) as directory:
            monkeypatch.setattr(shutil, "rmtree", interrupted)
            raise KeyboardInterrupt(directory)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert len(seen) == 1
    assert not Path(seen[0]).exists()
