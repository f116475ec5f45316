"""Matplotlib figures as SVG text that is small, the same every time, and readable on light and dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INK", "as_svg", "drawing_style", "inline"]

INK = "#010203"
"""Stands for the page's text colour while drawing; becomes `currentColor` in the SVG."""

_STANDALONE_STYLE = (
    "<style>svg.metalr-figure{color:#24292f}"
    "@media(prefers-color-scheme:dark){svg.metalr-figure{color:#d8dee4}}</style>"
)


@contextmanager
def drawing_style() -> Iterator[None]:
    """The settings under which every figure is drawn and saved."""
    import matplotlib

    settings: Any = {
        "svg.hashsalt": "metalr",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9.0,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.labelsize": 9.0,
        "legend.fontsize": 8.0,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": INK,
        "grid.alpha": 0.14,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        **{
            key: INK
            for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
        },
    }
    with matplotlib.rc_context(settings):
        yield


def as_svg(figure: Figure, title: str) -> str:
    """`figure` as a standalone SVG document with a transparent background and `title` for screen readers."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    body = buffer.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = body.replace(INK, "currentColor").replace("xlink:href", "href")
    # Matplotlib relies on black being the default fill of text; the page's own colour is wanted.
    body = body.replace('<text style="', '<text fill="currentColor" style="')
    body = re.sub(r' (width|height)="[\d.]+pt"', "", body, count=2)
    opening = f'<svg class="metalr-figure" role="img" aria-label="{escape(title)}" '
    body = body.replace("<svg ", opening, 1)
    return re.sub(r"(<svg[^>]*>)", lambda match: match[1] + _STANDALONE_STYLE, body, count=1)


def inline(svg: str, name: str) -> str:
    """`svg` for use inside an HTML page: no name spaces (so no address), no style, ids unique by `name`."""
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace(_STANDALONE_STYLE, "")
    body = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
