"""The picture of the rooms, for CONTRIBUTING: `python docs/rooms.py` writes docs/images/rooms.svg."""

from __future__ import annotations

from html import escape
from pathlib import Path

# name → (column, row, what comes out of it)
ROOMS = {
    "batches/": (0, 1, "texts → batches"),
    "gradients/": (1, 1, "batches → gradients of each text"),
    "rows/": (2, 1, "a row for each word of a text"),
    "tracin_we.py": (3, 1, "rows → scores"),
    "words/": (4, 1, "a score's share of each word"),
    "visualization/": (5, 0, "pages and pictures"),
    "exports/": (5, 2, "tables and files"),
    "checkpoints/": (1, 2, "weights and learning rates"),
    "index/": (2, 2, "rows kept on disk"),
    "preconditioners/": (2, 0, "how much each word counts"),
    "labels/": (3, 0, "which labels are wrong"),
    "explanation/": (4, 0, "why a model errs"),
    "neighbours/": (3, 2, "methods near TracIn-WE"),
    "evidence/": (4, 2, "rivals, measures, retraining"),
    "app/": (0, 0, "the command line"),
}
# The way of the data, then what joins it.
ARROWS = [
    ("batches/", "gradients/"),
    ("gradients/", "rows/"),
    ("rows/", "tracin_we.py"),
    ("tracin_we.py", "words/"),
    ("words/", "visualization/"),
    ("words/", "exports/"),
    ("checkpoints/", "gradients/"),
    ("index/", "rows/"),
    ("preconditioners/", "rows/"),
]
ASIDE = {"labels/", "explanation/", "neighbours/", "evidence/", "app/"}
WIDTH, HEIGHT, GAP, DOWN = 150, 62, 34, 38


def place(name: str) -> tuple[float, float]:
    """The left upper corner of a room."""
    column, row, _ = ROOMS[name]
    return 10 + column * (WIDTH + GAP), 10 + row * (HEIGHT + DOWN)


def box(name: str) -> str:
    """A room with its name and what is done there."""
    x, y = place(name)
    kind = "aside" if name in ASIDE else "way"
    first, _, rest = ROOMS[name][2].partition(" ")
    lines, line = [], first
    for word in rest.split():
        if len(line) + len(word) > 19:
            lines, line = [*lines, line], word
        else:
            line = f"{line} {word}"
    said = "".join(
        f'<text class="said" x="{x + WIDTH / 2:g}" y="{y + 40 + 14 * i:g}">{escape(one)}</text>'
        for i, one in enumerate([*lines, line])
    )
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
        f'<text class="name" x="{x + WIDTH / 2:g}" y="{y + 22:g}">{escape(name)}</text>{said}'
    )


def arrow(start: str, end: str) -> str:
    """The way from one room to the next."""
    (a, b), (c, d) = place(start), place(end)
    if b == d:
        ends = a + WIDTH, b + HEIGHT / 2, c - 4, d + HEIGHT / 2
    elif a == c:
        ends = a + WIDTH / 2, b if b > d else b + HEIGHT, c + WIDTH / 2, d + HEIGHT + 4 if b > d else d - 4
    else:
        ends = a + WIDTH, b + HEIGHT / 2 + (d - b) / 8, c - 4, d + HEIGHT / 2
    return '<line x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}" marker-end="url(#tip)"/>'.format(*ends)


def picture() -> str:
    """All rooms as SVG."""
    width, height = 6 * WIDTH + 5 * GAP + 20, 3 * HEIGHT + 2 * DOWN + 20
    style = (
        "text{font-family:system-ui,sans-serif;text-anchor:middle;fill:#1b1f24}.name{font-weight:600;font-size:15px}"
        ".said{font-size:12px;fill:#454c54}rect{stroke-width:1.5}.way{fill:#dbeafb;stroke:#2b6cb0}"
        ".aside{fill:#f3f4f6;stroke:#8a929b}line{stroke:#2b6cb0;stroke-width:2}#tip path{fill:#2b6cb0}"
    )
    tip = (
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" markerHeight="5" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="The rooms of the package, and the way of the data through them"><style>{style}</style><defs>{tip}</defs>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(arrow(*one) for one in ARROWS)}'
        f"{''.join(map(box, ROOMS))}</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "images" / "rooms.svg").write_text(picture(), encoding="utf-8")
