"""One HTML file that needs nothing else: no network, no script. Pieces of it, and what makes them safe to open.

Pictures are blurred until they are clicked: a box that is ticked and a rule of style do that. The page forbids itself
everything but its own style and the pictures in it; names of files come from strangers and are escaped. Knows HTML, no
index.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape as _escape

from nsfwd.escaping import escape, visible

STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a7fb5; --alarm: #c0392b; --dim: #888; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; } .dim { color: var(--dim); } .alarm { color: var(--alarm); font-weight: 600; }
svg { width: 100%; max-width: 52rem; height: auto; } svg text { font-size: 11px; fill: currentColor; }
svg rect { fill: var(--bar); } svg rect.alarm { fill: var(--alarm); } svg line { stroke: var(--line); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .8rem; overflow-wrap: anywhere; }
figure label { display: block; cursor: pointer; overflow: hidden; border-radius: .4rem; background: #8882; }
figure input { position: absolute; opacity: 0; pointer-events: none; }
figure img, figure .none { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; }
figure img { filter: blur(14px) saturate(.6); }
figure input:checked + img { filter: none; }
figure input:focus-visible + img { outline: 3px solid var(--bar); }
figure .none { display: grid; place-items: center; color: var(--dim); }
"""

_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; img-src data:; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class PagePicture:
    """One picture of a gallery.

    Attributes:
        name: of the file.
        image: a data URI; empty where there is none, and then ``missing`` says why.
        lines: what is said below it. ``alarm``: the first of them stands out.
    """

    name: str
    image: str
    lines: Sequence[str]
    alarm: bool = False
    missing: str = ""


def text(value: object) -> str:
    """Escape what comes from outside, control characters and directions of writing too."""
    return _escape(visible(str(value)))


def document(title: str, pieces: Iterable[str]) -> Iterator[str]:
    """Yield a whole page.

    Args:
        pieces: HTML, of the functions here.
    """
    yield (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">\n'
        f'<meta name="viewport" content="width=device-width">\n'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>\n<h1>{text(title)}</h1>\n"
    )
    yield from pieces
    yield "</body></html>\n"


def heading(title: str) -> str:
    """A part of the page begins."""
    return f"<h2>{text(title)}</h2>\n"


def paragraph(line: str, *, dim: bool = False) -> str:
    """A sentence."""
    kind = ' class="dim"' if dim else ""
    return f"<p{kind}>{text(line)}</p>\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Rows below headings; numbers stand to the right, None is empty, True is marked."""
    yield "<table><tr>" + "".join(f"<th>{text(column)}</th>" for column in columns) + "</tr>\n"
    for row in rows:
        yield "<tr>" + "".join(map(_cell, row)) + "</tr>\n"
    yield "</table>\n"


def _cell(value: object) -> str:
    if value is True:
        return '<td class="alarm">alarm</td>'
    if value is None or value is False:
        return "<td></td>"
    if isinstance(value, int | float):
        return f'<td class="n">{value:,}</td>' if isinstance(value, int) else f'<td class="n">{value:.4f}</td>'
    return f"<td>{text(value)}</td>"


def gallery(pictures: Iterable[PagePicture]) -> Iterator[str]:
    """Pictures side by side, blurred until they are clicked."""
    yield '<div class="gallery">\n'
    for picture in pictures:
        if picture.image:
            shown = f'<label><input type="checkbox"><img src="{picture.image}" alt=""></label>'
        else:
            shown = f'<label><span class="none">{text(picture.missing)}</span></label>'
        lines = [text(line) for line in picture.lines]
        if picture.alarm and lines:
            lines[0] = f'<span class="alarm">{lines[0]}</span>'
        caption = "<br>".join([*lines, f'<span class="dim">{text(escape(picture.name))}</span>'])
        yield f"<figure>{shown}<figcaption>{caption}</figcaption></figure>\n"
    yield "</div>\n"


_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 800, 220, 60, 24


def histogram(counts: Mapping[int, int], alarms: Mapping[int, int], bins: int) -> str:
    """Bars of how many files have which score, in powers of ten: else the few that matter could not be seen.

    Args:
        counts: bin -> files, of ``bins`` bins of equal width from 0 to 1. ``alarms``: those of them that are one.
    """
    most = max(counts.values(), default=0)
    if not most:
        return paragraph("no file was scored", dim=True)
    top = math.log10(most) + 0.3

    def height(count: int) -> float:
        return (math.log10(count) + 0.3) / top * (_HEIGHT - _BOTTOM - 10) if count else 0.0

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="histogram of scores">']
    for power in range(int(math.log10(most)) + 1):
        y = _HEIGHT - _BOTTOM - height(10**power)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10**power:,}</text>')
    step = (_WIDTH - _LEFT) / bins
    for place, count in sorted(counts.items()):
        alarm = alarms.get(place, 0)
        tip = f"{place / bins:.2f} to {(place + 1) / bins:.2f}: {count:,} files, {alarm:,} alarms"
        kind = ' class="alarm"' if alarm * 2 > count else ""
        tall = height(count)
        parts.append(
            f'<rect{kind} x="{_LEFT + place * step:.1f}" y="{_HEIGHT - _BOTTOM - tall:.1f}" width="{step - 1:.1f}" '
            f'height="{tall:.1f}"><title>{tip}</title></rect>'
        )
    for tenth in range(0, 11, 2):
        x = _LEFT + tenth / 10 * (_WIDTH - _LEFT)
        anchor = "end" if tenth == 10 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{tenth / 10:.1f}</text>')
    return "".join([*parts, "</svg>\n"])
