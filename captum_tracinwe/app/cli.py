"""The command `captum-tracinwe`: its options, what it refuses, its exit codes (0 done, 1 failed, 2 bad input, 130 stopped)."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from captum_tracinwe.app import (
    browse_options,
    explain_options,
    results_options,
    serve_options,
    source_options,
    suspects_options,
)
from captum_tracinwe.app.file_options import FILE_OPTIONS, FORMS, add_file_options
from captum_tracinwe.app.installed import version_of
from captum_tracinwe.app.option_types import count, file_name, folder_name, index_place, rate, seed
from captum_tracinwe.app.stops import Stops, stops
from captum_tracinwe.app.streams import Output, legible_streams, tell
from captum_tracinwe.gradients.seen import is_terminal
from captum_tracinwe.words.legible import as_line

__all__ = ["main"]

DESCRIPTION = "Which training texts, and which words in them, taught a text classifier its answers? (TracIn-WE)"
DEMO = """\
Trains a small classifier on sentences made up on the spot, some of them mislabelled on purpose, and shows that the method
finds them and the word that they share. No files, no network, well under a minute.

On your own texts: captum-tracinwe explain --train FILE --test FILE. With --train and --test, demo does the same."""
# What each of these needs beside it; the value None marks an option that was not given.
OF_OWN_TEXTS = (*FILE_OPTIONS, "limit", "test_limit", "model", "max_length")

# As `index/files/packing.py` has them, which asks for torch.
DTYPES = ("float32", "float16", "bfloat16", "int8", "int4", "int2")
# Advice that the package gives to Python → the same for a shell; the longer ones first.
IN_A_SHELL = (
    (r"(tracin|TracInWE)\.build_index\(path, resume=True\)", "captum-tracinwe index --resume"),
    (r"TracInWE\.build_index", "captum-tracinwe index"),
    (r"\b(resume|append)=True", r"--\1"),
    (r"tokenizer\(\.\.\., truncation=True, max_length=(\d+)\)(, or TokenizeTexts\([^)]*\))?", r"--max-length \1"),
    (r"dtype='(\w+)' or '(\w+)'", r"--dtype \1 or --dtype \2"),
    (
        r"does not fit this TracInWE \(here: the index; there: the arguments\)",
        "does not fit (here: the index; there: the options)",
    ),
    (r"Invalid checkpoints provided for TracIn class: (.+?)! ", r"--checkpoints \1 cannot be used. "),
    (
        r" Give it a better voice, out_of_fold=\.\.\., of",
        " Give it a better voice, of a model that is trained here by --folds N, else, from Python, suspects(..., "
        "out_of_fold=...), of",
    ),
    (r"in the environment as (\w+), or as `folder`", r"by --cache, or in the environment as \1"),
    (r"\bPass a checkpoints_load_func", "From Python, pass a checkpoints_load_func"),
    (r"\bor pass a checkpoints_load_func", "or, from Python, pass a checkpoints_load_func"),
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is a `--help` away."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {as_line(message)} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv (list of str, optional): the arguments; those of the process by default.

    Returns:
        int: 0 when done, 2 when the input cannot be used, 1 when something else failed (one line on stderr says why), 130
        after Ctrl-C. A reader of the output who leaves (``| head``) is no failure.
    """
    output = Output()
    with stops() as stopped, legible_streams():
        code = _run(argv, output, stopped)
        output.finish()
        if output.failed is None or isinstance(output.failed, BrokenPipeError) or code:
            return code
        from captum_tracinwe.app.data import one_line

        tell(f"captum-tracinwe: error: standard output: {one_line(output.failed)}. The work itself was done.")
        return 1


def _run(argv: Sequence[str] | None, output: Output, stopped: Stops) -> int:
    """What :func:`main` does, between streams that take whatever is said."""
    try:
        options = _parser().parse_args(argv, argparse.Namespace(say=output.say, put=output.say))
    except SystemExit as stop:  # argparse's way to end after --help, --version or an error
        return stop.code if isinstance(stop.code, int) else 0
    from captum_tracinwe.app.data import one_line

    if "-" in (getattr(options, "json", None), getattr(options, "csv", None)):
        # Standard output has the result, and nothing else; what else is said is for a person who looks.
        options.say = tell if is_terminal(sys.stderr) else _nothing

    def report(kind: str, said: str) -> None:
        tell(f"captum-tracinwe {options.command}: {kind}: {_for_a_shell(as_line(said))}")

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:
        report("warning", str(message))

    try:
        with warnings.catch_warnings():
            warnings.showwarning = warn  # without the place in the code, which is not the user's
            options.run(options)
    except FloatingPointError as error:
        report("error", f"{error} Lower --learning-rate.")
        return 2
    except (OSError, ValueError) as error:
        report("error", one_line(error))
        return 2
    except Exception as error:  # a traceback would send what the message quotes to the terminal as it is
        if stopped.came is None:
            report("error", f"{type(error).__name__}: {one_line(error)}")
            return 1
        return _stopped(options.command)  # torch turns an interrupt into an error of its own
    except KeyboardInterrupt:
        return _stopped(options.command)
    return 0


def _nothing(text: str) -> None:
    """Says it not."""


def _stopped(command: str) -> int:
    tell(f"\ncaptum-tracinwe {command}: stopped.")
    return 130


def _for_a_shell(said: str) -> str:
    """What the package says to Python, in the options of the command line."""
    for pattern, option in IN_A_SHELL:
        said = re.sub(pattern, option, said)
    return said


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="captum-tracinwe", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version_of('captum-tracinwe')}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    explain_options.add(commands)
    _add_index(commands)
    _add_query(commands)
    suspects_options.add(commands)
    browse_options.add(commands)
    serve_options.add(commands)
    explain_options.add_cache(commands)
    info = commands.add_parser("info", help="versions, compiled kernels, GPU", description="What is installed here.")
    info.set_defaults(run=_info)
    results_options.add(info, "the same as a table of names and values")
    return parser


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="see it work: a planted word is found, on built-in texts",
        description=DEMO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.set_defaults(run=_demo)
    add = demo.add_argument
    report = "captum-tracinwe-report.html"
    add("--out", metavar="FILE", type=file_name, default=report, help="the report (default: %(default)s)")
    add("--k", type=count, default=5, metavar="N", help="proponents and opponents shown per test text (default: 5)")
    add("--seed", type=seed, default=0, metavar="N", help="of weights, shuffling and samples (default: 0)")
    add("--epochs", type=count, metavar="N", help="default: 8; 5 on your texts; 2 with --model")
    add("--batch-size", type=count, metavar="N", default=32, help="texts per training step (default: 32)")
    add(
        "--learning-rate",
        type=rate,
        metavar="RATE",
        help="of the first step (default: 0.001; 0.00005 with --model)",
    )
    add("--without-special-tokens", action="store_true", help="leave [CLS], [SEP] and their like out of the scores")
    add("--plain", action="store_true", help="the paper's TracIn-WE (default: the score that we recommend)")
    kept = "keep the checkpoints in this empty or new directory (default: not kept)"
    add("--checkpoints", metavar="DIR", type=folder_name, help=kept)
    results_options.add(demo, "the pairs of test and training texts as a table")
    group = demo.add_argument_group("your own texts (as of captum-tracinwe explain, which has more)")
    own = group.add_argument
    own("--train", metavar="FILE", help=f"training texts: {FORMS}")
    own("--test", metavar="FILE", help="test texts")
    add_file_options(group)
    own("--limit", type=count, metavar="N", help="train on a random sample of N texts that keeps the class shares")
    own("--test-limit", type=count, metavar="N", help="test texts explained (default: 20)")
    own(
        "--model",
        metavar="DIR",
        help="fine-tune the model in this local directory (default: a small BERT from scratch)",
    )
    own("--max-length", type=count, metavar="N", help="tokens kept of a text (default: 64)")


def _demo(options: argparse.Namespace) -> None:
    from captum_tracinwe.app.data import InputError

    if bool(options.train) != bool(options.test):
        given, missing = ("--train", "--test") if options.train else ("--test", "--train")
        raise InputError(f"{given} is given without {missing}; give both, or neither for the built-in texts.")
    if options.train is None:
        for name in OF_OWN_TEXTS:
            if getattr(options, name) is not None:
                option = "--" + name.replace("_", "-")
                raise InputError(f"{option} is for your own texts; give --train and --test too.")
    if options.train is not None:
        explain_options.run_demo(options)
        return
    from captum_tracinwe.app import demo, results

    handed = results.Results.of(options)
    handed.check(out=options.out)
    found = demo.run_planted(
        demo.Settings(
            out=options.out,
            k=options.k,
            seed=options.seed,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            checkpoints=options.checkpoints,
            without_special_tokens=options.without_special_tokens,
            plain=options.plain,
        ),
        options.say,
    )
    if not handed.asked:
        return
    measured = {name: getattr(found, name) for name in ("fooled", "held", "accuracy", "found", "by_chance", "shares")}
    words = [] if found.words is None else found.words.rows()
    tables = results.of_pairs(found.influences)
    handed.hand_on({"findings": measured, **tables, "words": words}, results.PAIRS, tables["pairs"])


def _add_index(commands: argparse._SubParsersAction[_Parser]) -> None:
    index = commands.add_parser(
        "index", help="compute a training set's gradients once and keep them", description="Build a GradientIndex."
    )
    index.set_defaults(run=_index)
    add = index.add_argument
    add("--train", metavar="FILE", required=True, help=f"training texts: {FORMS}")
    add("--out", metavar="DIR", type=folder_name, required=True, help="the index: a new or empty directory")
    add("--dry-run", action="store_true", help="only say what it would take: time, memory, disk")
    add("--resume", action="store_true", help="go on with an unfinished index")
    add("--append", action="store_true", help="put the texts behind those that the index holds")
    add(
        "--dtype",
        choices=("float32", "float16", "bfloat16", "int8", "int4", "int2"),
        default="float32",
        help="of what is stored; int4 takes a fifth or less, and finds nearly the same texts",
    )
    add(
        "--rank",
        type=count,
        default=31,
        help="length of the sketches that a question reads; with 7 they take less (31)",
    )
    add("--memory", type=count, metavar="MB", default=1000, help="ceiling beside the model's passes (default: 1000)")
    results_options.add(index, "the facts of the index as a table of names and values")
    source_options.add(index)


def _add_query(commands: argparse._SubParsersAction[_Parser]) -> None:
    query = commands.add_parser(
        "query",
        help="ask an index which training texts taught the model an answer",
        description="Search a GradientIndex.",
    )
    query.set_defaults(run=_query)
    add = query.add_argument
    add("--index", metavar="DIR", required=True, help="what `captum-tracinwe index` made, or the URL of one")
    add("--test", metavar="FILE", required=True, help="the texts to ask about, with labels")
    add("--k", type=count, default=5, metavar="N", help="training texts named per question (default: 5)")
    add("--opponents", action="store_true", help="those that spoke against the label, not for it")
    add("--predicted", action="store_true", help="ask about the model's own answers, not the file's labels")
    add("--test-limit", type=count, metavar="N", default=5, help="the first N texts of the file (default: 5)")
    add("--train", metavar="FILE", help="the training file, to show its texts")
    add("--out", metavar="FILE", type=file_name, help="a page of the same, with the words coloured")
    results_options.add(query, "the pairs of test and training texts as a table")
    source_options.add(query)


def _index(options: argparse.Namespace) -> None:
    from pathlib import Path

    from captum_tracinwe.app import commands, results

    handed = results.Results.of(options)
    handed.check([options.train, options.model, options.checkpoints, options.out])
    built = commands.build(
        source_options.source_of(options),
        Path(options.train),
        Path(options.out),
        dry_run=options.dry_run,
        resume=options.resume,
        append=options.append,
        dtype=options.dtype,
        rank=options.rank,
        memory=options.memory * 10**6,
        say=options.say,
    )
    if not handed.asked:
        return
    facts = commands.facts_of(built)
    handed.hand_on(facts, results.FACTS, results.fact_rows(facts))


def _query(options: argparse.Namespace) -> None:
    from pathlib import Path

    from captum_tracinwe.app import query_command, results

    handed = results.Results.of(options)
    handed.check([options.train, options.test, options.model, options.checkpoints, options.index], out=options.out)
    found = query_command.query(
        source_options.source_of(options),
        index_place(options.index),
        Path(options.test),
        k=options.k,
        opponents=options.opponents,
        limit=options.test_limit,
        predicted=options.predicted,
        train=Path(options.train) if options.train else None,
        out=Path(options.out) if options.out else None,
        say=options.say,
    )
    if not handed.asked:
        return
    tables = results.of_pairs(found.pairs, found.test_lines, found.train_lines)
    for row in tables["pairs"]:  # known without the training file, too
        row["train_label"] = found.train_labels[row["train_index"]]
    handed.hand_on({"read": found.read, **tables}, results.PAIRS, tables["pairs"])


def _info(options: argparse.Namespace) -> None:
    from captum_tracinwe.app import info, results

    handed = results.Results.of(options)
    handed.check()
    found = info.facts()
    info.tell(found, options.say)
    handed.hand_on(found, results.FACTS, results.fact_rows(found))
