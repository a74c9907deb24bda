"""A command that is asked to end, by Ctrl-C, SIGTERM or SIGHUP, puts away what it has begun, and then ends by that signal."""

import os
import signal
import tempfile
import warnings

import pytest
import torch
from test_cli_suspects import SMALL, write

from captum_tracinwe.app import training
from captum_tracinwe.app.cli import main

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="commands run in a forked child")
COMMANDS = {
    "suspects": ["suspects", "--train", "train.csv", "--csv", "s.csv", *SMALL, "--epochs", "1"],
    "folds": ["suspects", "--train", "train.csv", "--csv", "s.csv", *SMALL, "--epochs", "1", "--folds", "2"],
    "demo": ["demo", "--train", "train.csv", "--test", "train.csv", "--epochs", "2", "--max-length", "12"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("train.csv")
    (tmp_path / "tmp").mkdir()
    return tmp_path


def left():
    """What is temporary and ours; torch makes a folder of its own there."""
    return [name for name in os.listdir("tmp") if name.startswith("captum-tracinwe")]


def status_of(argv, at_a_checkpoint, before=lambda: None):
    """How a child ends that runs the command, and does something when it has saved its second checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        signal.alarm(60)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a parent may have them ignored, as nohup does
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        torch.set_num_threads(1)
        tempfile.tempdir = os.path.abspath("tmp")
        saved, save = [], training.save_checkpoint

        def save_checkpoint(path, *args, **options):
            save(path, *args, **options)
            saved.append(path)
            if len(saved) == 2:
                assert left()
                at_a_checkpoint()

        training.save_checkpoint = save_checkpoint
        before()
        code = main(argv)
    finally:
        os._exit(code)


@pytest.mark.parametrize(
    ("command", "ended_by"),
    [("suspects", "SIGTERM"), ("folds", "SIGTERM"), ("demo", "SIGTERM"), ("suspects", "SIGHUP")],
)
def test_no_temporary_checkpoint_stays_where_a_command_is_asked_to_end(folder, capfd, command, ended_by):
    number = getattr(signal, ended_by)
    assert status_of(COMMANDS[command], lambda: signal.raise_signal(number)) == -number
    assert left() == []
    assert sorted(os.listdir(".")) == ["tmp", "train.csv"]
    assert capfd.readouterr().err.endswith(f"captum-tracinwe {COMMANDS[command][0]}: stopped.\n")


def test_also_where_ctrl_c_is_ignored_as_of_a_command_in_the_background_and_that_stays_ignored(folder):
    """A shell script starts `command &` so; each signal is sent alone, and Ctrl-C comes first."""

    def ignored():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    command = COMMANDS["suspects"]
    assert status_of(command, lambda: signal.raise_signal(signal.SIGINT), ignored) == 0
    os.unlink("s.csv")
    assert status_of(command, lambda: signal.raise_signal(signal.SIGTERM), ignored) == -signal.SIGTERM
    assert left() == []
    assert not os.path.exists("s.csv")


def test_it_is_held_back_while_the_temporary_folder_is_being_removed(folder):
    """The signal comes in the middle of it, and does not leave half of it behind."""

    def armed():
        remove = os.rmdir

        def rmdir(*args, **options):
            os.rmdir = remove
            signal.raise_signal(signal.SIGTERM)
            remove(*args, **options)

        os.rmdir = rmdir

    assert status_of(COMMANDS["suspects"], armed) == -signal.SIGTERM
    assert left() == []


def test_a_signal_that_the_caller_handles_stays_the_callers(folder):
    def handled():
        signal.signal(signal.SIGTERM, lambda *_: None)

    assert status_of(COMMANDS["suspects"], lambda: signal.raise_signal(signal.SIGTERM), handled) == 0
    assert os.path.exists("s.csv")
