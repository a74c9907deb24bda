"""A page on which a person asks about a text, with the answer below: a form and nothing that runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from captum_tracinwe.visualization.asking_style import ASKING_STYLE
from captum_tracinwe.visualization.common import TestGroup, counted
from captum_tracinwe.visualization.page import escaped, pairs_html, text_html, whole_page
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.legible import visible

__all__ = ["AskingForm", "Said", "asking_html"]

TITLE = "Which training texts taught the model its answer?"


@dataclass(frozen=True)
class AskingForm:
    """What the form offers, and what it holds.

    Args:
        classes (sequence of str): names, by class number.
        trained (int): how many training texts are asked about.
        most (int): of k.
        characters (int): of a text.
        pairs (bool): a text is a pair.
        readable (bool): the training texts can be shown.
        texts (sequence of str): what was asked about: one, or two of a pair.
        label (int, optional): the class that was asked about; None: the model's own answer.
        k (int): training texts for the answer, and as many against it.
    """

    classes: Sequence[str]
    trained: int
    most: int
    characters: int
    pairs: bool = False
    readable: bool = True
    texts: Sequence[str] = ()
    label: int | None = None
    k: int = 5


@dataclass(frozen=True)
class Said:
    """What the model says of a text, and who taught it that.

    Args:
        group (TestGroup): the text with its pairs.
        answer (str): name of the class that it answers.
        asked (str): name of the class that was asked about.
        probabilities (sequence of (str, float)): of the classes, for those that are named.
    """

    group: TestGroup
    answer: str
    asked: str
    probabilities: Sequence[tuple[str, float]]


def asking_html(
    form: AskingForm,
    said: Said | None = None,
    refused: str = "",
    train_place: Callable[[int], str] = "Training example {}".format,
    title: str = TITLE,
) -> str:
    """One whole HTML5 page: a form, and below it an answer, or why there is none. It loads nothing and runs nothing.

    Args:
        form (AskingForm): the form.
        said (Said, optional): the answer.
        refused (str): why there is none.
        train_place (callable): what a person knows a training text by, of its index.
        title (str): heading of the page.
    """
    shown = f'<p class="warning" role="alert">{escaped(visible(refused))}</p>\n' if refused else ""
    answer = "" if said is None else _answer(said, form, train_place)
    heading = escaped(title)
    return whole_page(heading, f"<h1>{heading}</h1>\n{_form(form)}{shown}{answer}", ASKING_STYLE)


def _form(form: AskingForm) -> str:
    fields = ("text", "second") if form.pairs else ("text",)
    names = ("First text", "Second text") if form.pairs else ("Text",)
    held = [*form.texts, "", ""]
    areas = "".join(
        # Of a textarea the first line end is no part of its text.
        f'<label for="{field}">{name}</label><textarea id="{field}" name="{field}" required dir="auto" '
        f'maxlength="{form.characters}" spellcheck="false"{"" if at or any(form.texts) else " autofocus"}>\n'
        f"{escaped(text)}</textarea>"
        for at, (field, name, text) in enumerate(zip(fields, names, held, strict=False))
    )
    options = "".join(
        f'<option value="{number}"{" selected" if number == form.label else ""}>{escaped(visible(name))}</option>'
        for number, name in enumerate(form.classes)
    )
    here = "" if form.readable else " The texts themselves are not here: they are named by their lines."
    lead = (
        f"A classifier and its {counted(form.trained, 'training text')}. Type a text: you get the training texts that taught "
        f"the model its answer, and those that spoke against it. Words have the colour of their share.{here}"
    )
    asked = f'<select name="label"><option value="">the model’s own answer</option>{options}</select>'
    number = f'<input type="number" name="k" min="1" max="{form.most}" value="{form.k}" required>'
    row = f"<label>Asked about{asked}</label><label>Texts on either side{number}</label><button>Ask</button>"
    return (
        f'<p class="soft">{lead}</p>\n<form method="post" action="/" accept-charset="utf-8">{areas}'
        f'<div class="row">{row}</div></form>\n'
    )


def _answer(said: Said, form: AskingForm, train_place: Callable[[int], str]) -> str:
    by_name = ", ".join(f"<bdi>{escaped(visible(name))}</bdi> {value:.1%}" for name, value in said.probabilities)
    other = (
        "" if said.asked == said.answer else f" Asked about: <b><bdi>{escaped(visible(said.asked))}</bdi></b> instead."
    )
    lead = (
        f'<p class="lead">The model answers <b><bdi>{escaped(visible(said.answer))}</bdi></b> ({by_name}).{other}</p>\n'
    )
    pairs: tuple[WordInfluence, ...] = (*said.group.proponents, *said.group.opponents)
    if not pairs:
        text = said.group.text
        shown = "" if text is None else f'<div class="said">{text_html(text, [], 1.0, 600)}</div>\n'
        none = "No training text pushed the model either way: none has a word in common that counts."
        return f'{lead}{shown}<p class="none">{none}</p>\n'
    return lead + pairs_html([said.group], 6, 600, lambda _: "Your text", train_place)
