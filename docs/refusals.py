"""What the package can say: each message of a `raise`, a warning or an `assert`, read off the source, for the page of errors."""

import ast
import functools
import itertools
from dataclasses import dataclass, field
from pathlib import Path

#: Section of guide/errors.md → the folders and files of the package whose messages it lists, by the way of the data.
SECTIONS = {
    "data": ("batches", "tracin_we"),
    "model": ("gradients", "preconditioners"),
    "checkpoints": ("checkpoints",),
    "index": ("index",),
    "words": ("words", "visualization"),
    "labels": ("labels", "explanation"),
    "exports": ("exports", "tabular", "whole_files"),
    "rows": ("rows", "short_names"),
    "evidence": ("evidence",),
    "neighbours": ("neighbours",),
    "command": ("app",),
}
GAP = "…"
MOST = 24  # forms of one message


@dataclass(frozen=True, order=True)
class Said:
    """A message with a gap for each value, its kind, and the module that it stands in."""

    module: str
    line: int
    kind: str
    text: str


@dataclass
class Scope:
    """Where a name is looked up: in a function with what it was called with, then in the function around it, then the module."""

    module: str
    nodes: list
    bound: dict = field(default_factory=dict)
    within: tuple = ()  # the functions that are being read


@functools.cache
def _assigned(node):
    """Name → the values that a function gives it, or a module at its top."""
    found = {}
    for one in ast.walk(node) if isinstance(node, ast.FunctionDef) else node.body:
        if isinstance(one, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and one.value is not None:
            target = one.targets[0] if isinstance(one, ast.Assign) else one.target
            several = isinstance(target, ast.Tuple) and isinstance(one.value, ast.Tuple)
            for name, value in zip(target.elts, one.value.elts, strict=False) if several else [(target, one.value)]:
                if isinstance(name, ast.Name):
                    found.setdefault(name.id, []).append(value)
    return found


@functools.cache
def _returned(function):
    return [one.value for one in ast.walk(function) if isinstance(one, ast.Return) and one.value is not None]


@functools.cache
def _caught(tree):
    """The names that errors are caught by."""
    return {one.name for one in ast.walk(tree) if isinstance(one, ast.ExceptHandler)}


class Package:
    """The source of a package, and its messages."""

    def __init__(self, folder):
        folder = Path(folder)
        self.trees, self.functions, self.imports, self.owners, self.errors = {}, {}, {}, {}, set()
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            tree = self.trees[module] = ast.parse(path.read_text())
            self.imports[module] = {}
            for node in ast.walk(tree):
                for child in ast.iter_child_nodes(node):
                    self.owners[child] = node
                if isinstance(node, ast.ClassDef) and any(self._is_error(ast.unparse(base)) for base in node.bases):
                    self.errors.add(node.name)
                elif isinstance(node, ast.FunctionDef):
                    self.functions.setdefault((module, node.name), node)
                elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{folder.name}."):
                    home = node.module.partition(".")[2]
                    self.imports[module] |= {alias.asname or alias.name: (home, alias.name) for alias in node.names}

    def said(self):
        """(messages, what has no words that could be found), each place once for each of its forms."""
        found, without = set(), []
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                kind, expression = self._message(node)
                if kind is None:
                    continue
                texts = self._texts(expression, self._scope(module, node), 0) if expression is not None else []
                texts = {" ".join(text.split()) for text in texts if any(c.isalpha() for c in text)}
                if not texts and not self._has_no_words(node, module):
                    without.append(f"{module}:{node.lineno}")
                found |= {Said(module, node.lineno, self._kind(kind, node, module), text) for text in texts}
        return sorted(found), without

    def _message(self, node):
        if isinstance(node, ast.Raise) and node.exc is not None:
            return "raise", node.exc
        if isinstance(node, ast.Assert) and node.msg is not None:
            return "AssertionError", node.msg
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
            return "warning", node.args[0]
        return None, None

    def _kind(self, kind, node, module, depth=0):
        if kind != "raise":
            return kind
        call = node.exc if isinstance(node, ast.Raise) else node
        function = self._function(call, module)
        if function is None or depth > 3:
            named = (getattr(one, "id", getattr(one, "attr", "")) for one in ast.walk(getattr(call, "func", call)))
            return " or ".join(sorted({name for name in named if self._is_error(name)}))
        kinds = {self._kind("raise", value, function[0], depth + 1) for value in _returned(function[1])}
        return " or ".join(sorted({kind for one in kinds for kind in one.split(" or ") if kind}))

    def _has_no_words(self, node, module):
        """A class alone, which is caught in the package or is Python's own; an error that is passed on, or its words."""
        if not isinstance(node, ast.Raise) or isinstance(node.exc, (ast.Name, ast.Attribute)):
            return isinstance(node, ast.Raise)
        return any(isinstance(one, ast.Name) and one.id in _caught(self.trees[module]) for one in ast.walk(node.exc))

    def _scope(self, module, node):
        nodes = []
        while node in self.owners:
            node = self.owners[node]
            if isinstance(node, ast.FunctionDef):
                nodes.append(node)
        return Scope(module, [*nodes, self.trees[module]])

    def _function(self, call, module):
        """The (module, function) that a call means, where it stands in the package."""
        if not isinstance(call, ast.Call):
            return None
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", None)
        place = self.imports[module].get(name, (module, name))
        node = self.functions.get(place)
        return None if node is None else (place[0], node)

    def _texts(self, node, scope, depth):
        """The forms that a text can have; none where it is none, or not to be told from the source."""
        if depth > 16:
            return []
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else []
        if isinstance(node, ast.JoinedStr):
            parts = [
                [one.value] if isinstance(one, ast.Constant) else self._within(one.value, scope, depth + 1)
                for one in node.values
            ]
            return ["".join(each) for each in itertools.islice(itertools.product(*parts), MOST)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            sides = [self._texts(side, scope, depth + 1) or [GAP] for side in (node.left, node.right)]
            return ["".join(each) for each in itertools.islice(itertools.product(*sides), MOST)]
        if isinstance(node, ast.IfExp):
            return self._texts(node.body, scope, depth + 1) + self._texts(node.orelse, scope, depth + 1)
        if isinstance(node, ast.BoolOp):
            return [text for value in node.values for text in self._texts(value, scope, depth + 1)]
        if isinstance(node, ast.Name):
            return self._named(node.id, scope, depth + 1)
        if isinstance(node, ast.Call):
            return self._called(node, scope, depth + 1)
        return []

    def _within(self, node, scope, depth):
        """What stands in a gap: its one text or two, else the gap."""
        found = (
            self._texts(node, scope, depth) if isinstance(node, (ast.Name, ast.IfExp, ast.Call, ast.Constant)) else []
        )
        alternatives = list(dict.fromkeys(found))
        if isinstance(node, ast.IfExp) and len(found) < 2:
            return [*alternatives, GAP]
        return alternatives if 0 < len(alternatives) <= 6 else [GAP]

    def _named(self, name, scope, depth):
        if name in scope.bound:
            return scope.bound[name]
        for node in scope.nodes:
            arguments = node.args if isinstance(node, ast.FunctionDef) else None
            if arguments and name in {a.arg for a in (*arguments.args, *arguments.kwonlyargs)}:
                return []
            found = _assigned(node).get(name)
            if found:
                return [text for value in found for text in self._texts(value, scope, depth)]
        home = self.imports[scope.module].get(name)
        if home and home[0] in self.trees:
            return self._named(home[1], Scope(home[0], [self.trees[home[0]]], {}, scope.within), depth)
        return []

    def _called(self, node, scope, depth):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            table = self._table(node.func.value, scope.module)
            return [text for value in (*table, *node.args[1:]) for text in self._texts(value, scope, depth)]
        function = self._function(node, scope.module)
        if function is None:  # of an OSError the first is a number
            every = [self._texts(one, scope, depth) for one in node.args] if self._makes_error(node) else []
            return next((texts for texts in every if texts), [])
        module, made = function
        if made in scope.within:
            return []
        names = [a.arg for a in made.args.args]
        names = names[1:] if names[:1] in (["self"], ["cls"]) else names
        given = dict(zip(names, node.args, strict=False)) | {k.arg: k.value for k in node.keywords if k.arg}
        bound = {name: texts for name, value in given.items() if (texts := self._texts(value, scope, depth))}
        inner = Scope(module, [made, self.trees[module]], bound, (*scope.within, made))
        return [text for value in _returned(made) for text in self._texts(value, inner, depth)]

    def _table(self, node, module):
        """The values of a dictionary of the module, or of the one that it is imported from."""
        home, name = self.imports[module].get(getattr(node, "id", None), (module, getattr(node, "id", None)))
        made = _assigned(self.trees[home]).get(name, []) if home in self.trees else []
        return [value for one in made if isinstance(one, ast.Dict) for value in one.values]

    def _makes_error(self, node):
        """A class of errors, named or chosen by a condition."""
        name = ast.unparse(node.func).rpartition(".")[2]
        return self._is_error(name) or name == "kind" or not isinstance(node.func, (ast.Name, ast.Attribute))

    def _is_error(self, name):
        return name in self.errors or name.endswith("Error") or name in ("KeyboardInterrupt", "Exception")


def lines(said, sections=SECTIONS):
    """Section → its messages as a list in Markdown, alike ones once."""
    where = {name: section for section, names in sections.items() for name in names}
    grouped = {section: {} for section in sections}
    for one in said:
        grouped[where[one.module.partition(".")[0]]].setdefault(one.text, one)
    found = {}
    for section, messages in grouped.items():
        rows = [f"- {_code(one.text)} {one.kind}, {one.module}" for one in messages.values()]
        # A comment first: a list that begins with an option, `--save`, was taken for the page's front matter.
        found[section] = "\n".join([":::{container} refusals", "", "% messages", "", *rows, ":::"])
    return found


def _code(text):
    """A code span: what is in it is shown letter by letter."""
    ticks = "`" * (1 + max((len(list(run)) for c, run in itertools.groupby(text) if c == "`"), default=0))
    space = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def substitutions(folder):
    """``{{ refusals_data }}`` and so on."""
    return {f"refusals_{section}": text for section, text in lines(Package(folder).said()[0]).items()}
