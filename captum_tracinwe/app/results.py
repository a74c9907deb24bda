"""`--json` and `--csv`: what a command found, as data, in one form for all commands; the files are there whole or not at all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_tracinwe.app.data import InputError
from captum_tracinwe.app.installed import version_of
from captum_tracinwe.app.outputs import check_outputs
from captum_tracinwe.explanation import Explanation
from captum_tracinwe.explanation.tables import COLUMNS, VERSION
from captum_tracinwe.gradients.seen import is_terminal
from captum_tracinwe.tabular import csv_text, json_document
from captum_tracinwe.whole_files import write_all
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.legible import as_lines
from captum_tracinwe.words.tables import PAIR_COLUMNS, RANKED_SHARES, pair_rows, share_rows

__all__ = ["FACTS", "PAIRS", "SHARES", "Results", "fact_rows", "of_explanation", "of_lines", "of_pairs"]

#: The columns of a table of facts.
FACTS = ("name", "value")
#: Of one of pairs, which says where the texts stand, too.
PAIRS = (*PAIR_COLUMNS[:2], "test_line", "train_line", *PAIR_COLUMNS[2:])
#: Of one of the words of pairs.
SHARES = (*RANKED_SHARES[:2], "test_line", "train_line", *RANKED_SHARES[2:])


@dataclass(frozen=True)
class Results:
    """Where what is found goes; see :func:`captum_tracinwe.app.results_options.add`.

    Args:
        command (str): what found it.
        json, csv (str, optional): files; "-" is standard output, for one of them.
        put (callable): prints on standard output, where that one then stands alone.
    """

    command: str = ""
    json: str | None = None
    csv: str | None = None
    put: Callable[[str], None] = print

    @classmethod
    def of(cls, options: argparse.Namespace) -> Results:
        """As the options of a command say."""
        return cls(options.command, options.json, options.csv, options.put)

    @property
    def outputs(self) -> dict[str, str | Path]:
        """Path by option, of the files to be written."""
        named = {"--json": self.json, "--csv": self.csv}
        return {option: path for option, path in named.items() if path is not None and path != "-"}

    @property
    def asked(self) -> bool:
        """Whether anything is to be handed on: the rows of tables take their time, too."""
        return self.json is not None or self.csv is not None

    def check(self, inputs: Iterable[str | Path | None] = (), **others: str | Path | None) -> None:
        """See, before the work, that the files can be written and replace no other (:func:`check_outputs`).

        Args:
            inputs (iterable of path): that are read; None: not given.
            **others (path): what else is written, by its option: ``out=...``.
        """
        self.check_dashes()
        named = {f"--{name}": path for name, path in others.items() if path is not None}
        check_outputs({**named, **self.outputs}, [path for path in inputs if path is not None])

    def check_dashes(self) -> None:
        """Raise InputError where both are to be printed."""
        if self.json == self.csv == "-":
            raise InputError(
                "--json - and --csv - are both given, and standard output can hold one of them; name a file for the other."
            )

    def contents(
        self, content: Mapping[str, Any], columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> dict[Path, bytes]:
        """The files to be written, for whoever writes others with them."""
        found: dict[Path, bytes] = {}
        if self.json is not None and self.json != "-":
            found[Path(self.json)] = json_document(self._whole(content)).encode()
        if self.csv is not None and self.csv != "-":
            found[Path(self.csv)] = csv_text(columns, rows).encode()
        return found

    def say(self, content: Mapping[str, Any], columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Print what standard output is to have: JSON in ASCII, which every terminal and pipe can hold; CSV as a file has it, and
        with what a terminal would obey made visible where it goes to one.
        """
        if self.json == "-":
            self.put(json_document(self._whole(content), ascii_only=True).removesuffix("\n"))
        if self.csv == "-":
            text = csv_text(columns, rows).removesuffix("\n")
            self.put(as_lines(text) if is_terminal(sys.stdout) else text)

    def hand_on(self, content: Mapping[str, Any], columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Write and print what is asked for: all of ``content`` as JSON, ``rows`` as CSV.

        Raises:
            InputError: a file cannot be written.
        """
        try:
            write_all(self.contents(content, columns, rows))
        except OSError as error:
            where = error.filename or ", ".join(map(str, self.outputs.values()))
            raise InputError(f"{where}: cannot be written ({error.strerror or error}).") from error
        self.say(content, columns, rows)

    def _whole(self, content: Mapping[str, Any]) -> dict[str, Any]:
        head = {"schema_version": VERSION, "command": self.command, "package_version": version_of("captum-tracinwe")}
        return {**head, **content}


# ------------------------------------------------------------------------------------------------------- what is found


def of_pairs(
    pairs: Sequence[Sequence[WordInfluence]],
    test_lines: Mapping[int, int] | None = None,
    train_lines: Mapping[int, int] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Pairs ``[test][rank]`` and their words as rows of "pairs" (:data:`PAIRS`) and "shares" (:data:`SHARES`).

    Args:
        test_lines, train_lines (mapping): line of the file by index; None, or none for an index: no file has it.
    """

    def placed(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
        told = {
            **row,
            "test_line": (test_lines or {}).get(row["test_index"]),
            "train_line": (train_lines or {}).get(row["train_index"]),
        }
        return {name: told[name] for name in columns}

    return {
        "pairs": [placed(row, PAIRS) for row in pair_rows(pairs)],
        "shares": [placed(row, SHARES) for row in share_rows(pairs)],
    }


def of_lines(pairs: Sequence[Sequence[WordInfluence]]) -> dict[str, list[dict[str, Any]]]:
    """The same of pairs that go by the lines of their files instead of indices, which are then None."""
    tables = of_pairs(pairs)
    for rows in tables.values():
        for row in rows:
            row["test_line"], row["train_line"] = row["test_index"], row["train_index"]
            row["test_index"] = row["train_index"] = None
    return tables


def of_explanation(results: Results, found: Explanation) -> None:
    """Hand on an explanation: JSON has all its tables, CSV its answers with the training texts behind them.

    Raises:
        InputError: a file cannot be written.
    """
    tables = found.tables()
    content = {"title": found.title, "trains": found.trains, **tables}
    results.hand_on(content, COLUMNS["pairs"], tables["pairs"])


def fact_rows(content: Mapping[str, Any], of: str = "") -> list[dict[str, Any]]:
    """Facts within facts as rows of :data:`FACTS`: ``{"a": {"b": 1}}`` is ``a.b``, 1."""
    rows: list[dict[str, Any]] = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            rows += fact_rows(value, f"{of}{name}.")
        else:
            rows.append({"name": f"{of}{name}", "value": value})
    return rows
