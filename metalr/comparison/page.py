"""The HTML page: one file, no request, phone and desktop, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from metalr.comparison.costs import controller_cost_table, decisions_table, making
from metalr.comparison.curves import CURVES
from metalr.comparison.panels import PALETTE
from metalr.comparison.plots import Picture
from metalr.comparison.svg import inline
from metalr.comparison.tables import (
    Table,
    main_table,
    overall_table,
    paired_table,
    tuned_table,
    wins_table,
)
from metalr.comparison.wording import DASH, caveats, plural, strengths_and_weaknesses, verdict

__all__ = ["facts", "html_page", "reproduction"]

Summary = Mapping[str, Any]

_MAX_OPEN_PANELS = 12
_MAX_OPEN_CELLS = 4
"""More panels of a kind, or more tables of cells, are folded away."""

_STYLE = """
:root{color-scheme:light dark;--ink:#24292f;--soft:#57606a;--page:#ffffff;--panel:#f6f8fa;--line:#d0d7de;
--lead:#0b5cad}
@media(prefers-color-scheme:dark){:root{--ink:#d8dee4;--soft:#9aa4ae;--page:#14171a;--panel:#1c2126;
--line:#363d45;--lead:#79b8ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1240px;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.2;margin:.4rem 0}
h2{font-size:1.2rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
.verdict{font-size:1.15rem;border-left:4px solid var(--lead);background:var(--panel);padding:.8rem 1rem;
margin:1rem 0}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.6rem 1.2rem;margin:0}
.facts .wide{grid-column:1/-1;overflow-wrap:anywhere}
.facts dt{color:var(--soft);font-size:.8rem}
.facts dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:6px;margin:.4rem 0 1rem}
table{border-collapse:collapse;width:100%;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .5rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
thead th{white-space:normal;vertical-align:bottom;color:var(--soft);font-weight:600;min-width:3.6rem}
tbody tr:last-child>*{border-bottom:0}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--page)}
tbody th{font-weight:600}
.dense{font-size:.74rem}.dense th,.dense td{padding:.35rem .26rem}
.text td{text-align:left}.text thead th{text-align:left}
.key{display:inline-block;width:.7em;height:.7em;border-radius:2px;margin-right:.45em}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:1rem}
.packed{display:block;columns:330px 3;column-gap:1rem}
.packed figure{break-inside:avoid;margin-bottom:1rem}
figure{margin:0;min-width:0;border:1px solid var(--line);border-radius:6px;padding:.5rem}
figcaption{font-size:.85rem;font-weight:600;padding:0 .2rem .3rem}
svg.metalr-figure{display:block;width:100%;height:auto;max-width:520px;margin:0 auto;color:var(--ink)}
summary{cursor:pointer;font-weight:600;margin:1.4rem 0 .6rem}
.note{color:var(--soft);font-size:.9rem}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem;
white-space:pre-wrap;overflow-wrap:anywhere}
dl.definitions dt{font-family:ui-monospace,monospace;font-size:.85rem;margin-top:.6rem}
dl.definitions dd{margin:0 0 0 1rem;font-size:.9rem}
@media(max-width:600px){main{padding:.7rem}h1{font-size:1.3rem}.verdict{font-size:1.05rem}
table{font-size:.78rem}th,td{padding:.3rem .45rem}}
@media print{details>*{display:block}.scroll{overflow:visible}}
"""


_RECORDS = (
    "Every number is a function of the run records that manifest.json names, by the definitions above, and "
    "stands in summary.json for machines. Where the records are at hand (an archive of them comes back with "
    "`metalr runs unpack`), `metalr report` computes all of it again without training."
)

_WIDE_FACTS = {"Versions", "Commit"}
"""Facts too long for a column of their own."""


def facts(summary: Summary) -> dict[str, str]:
    """What a reader must know before any number: data, n, hardware, versions."""
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    seeds = summary["seeds"]
    return {
        "Data set": summary["dataset_label"] or summary["dataset"],
        "Runs": f"{summary['num_runs']}, of which {summary['num_diverged']} diverged",
        "Paired seeds (n)": f"{len(seeds)} ({', '.join(map(str, seeds))})",
        "Initial LRs": ", ".join(f"{lr:g}" for lr in summary["tuning_grid_lr"]),
        "Budgets": ", ".join(
            plural(epochs, "epoch") for epochs in sorted({cell["budget_epochs"] for cell in summary["cells"]})
        ),
        "Hardware": f"{summary['hardware'] or DASH} ({summary['device']})",
        "Versions": versions or DASH,
        "Commit": summary["commit"] or DASH,
    }


def reproduction(summary: Summary) -> str:
    """How to make these numbers again, as shell text."""
    checkout = f"git checkout {summary['commit']}\n" if summary["commit"] else ""
    return f"{checkout}{summary['command'] or 'make compare'}"


def html_page(summary: Summary, pictures: Sequence[Picture]) -> str:
    """The whole report as one HTML document."""
    title = escape(f"metalr: learning-rate comparison, recipe {summary['recipe']}")
    sections = [
        _overview(summary),
        _figures(pictures, ("accuracy-by-lr", "regret", "wall-time"), "panels packed"),
        _benefits(summary),
        _html_table(overall_table(summary)) + _html_table(tuned_table(summary), "text"),
        _cells(summary),
        _curves_section(pictures),
        _folded(
            _html_table(paired_table(summary), "text") if summary["overall_paired"] else "", "Paired tests"
        ),
        _cost(summary),
        _definitions(summary),
        f"<h2>How to reproduce</h2><pre>{escape(reproduction(summary))}</pre>"
        f'<p class="note">{escape(_RECORDS)}</p>',
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _overview(summary: Summary) -> str:
    items = "".join(
        f'<div class="{_fact_class(name)}"><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>'
        for name, text in facts(summary).items()
    )
    return (
        f"<h1>Learning-rate comparison: {escape(summary['recipe'])}</h1>"
        f'<p class="verdict">{escape(verdict(summary))}</p><dl class="facts">{items}</dl>'
        + _list(caveats(summary))
    )


def _fact_class(name: str) -> str:
    return "wide" if name in _WIDE_FACTS else "short"


def _list(sentences: Sequence[str]) -> str:
    return (
        "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"
        if sentences
        else ""
    )


def _html_table(table: Table, css_class: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.header)
    body = "".join(
        f'<tr><th scope="row">{_key(method)}{escape(row[0])}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        + "</tr>"
        for method, row in zip(table.methods, table.rows, strict=True)
    )
    return (
        f'<h3>{escape(table.title)}</h3><div class="scroll"><table class="{css_class}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _key(method: str) -> str:
    return f'<span class="key" style="background:{PALETTE[method]}"></span>' if method in PALETTE else ""


def _benefits(summary: Summary) -> str:
    words = strengths_and_weaknesses(summary)
    if not words:
        return ""
    table = wins_table(summary)
    title = "<h2>Where the controller wins, and where it loses</h2>"
    return title + _list(words) + (_html_table(table, "text") if table.rows else "")


def _cells(summary: Summary) -> str:
    tables = "".join(_html_table(main_table(summary, cell), "dense") for cell in summary["cells"])
    is_open = len(summary["cells"]) <= _MAX_OPEN_CELLS
    return "<h2>Cell by cell</h2>" + _folded(tables, "Every method in every cell", is_open)


def _figures(pictures: Sequence[Picture], kinds: Sequence[str], css_class: str = "panels") -> str:
    panels = "".join(
        f"<figure><figcaption>{escape(picture.title)}</figcaption>{inline(picture.svg, f'f{index}')}</figure>"
        for index, picture in enumerate(pictures)
        if picture.kind in kinds
    )
    return f'<div class="{css_class}">{panels}</div>'


def _curves_section(pictures: Sequence[Picture]) -> str:
    is_open = sum(picture.kind == "lr" for picture in pictures) <= _MAX_OPEN_PANELS
    note = (
        '<p class="note">Line: mean over seeds (geometric for LRs); band: least to largest seed; '
        "a thin line that ends in a cross: a run that diverged, left out of both.</p>"
    )
    parts = [_folded(_figures(pictures, (kind,)), title, is_open) for kind, title in CURVES.items()]
    return "<h2>Curves</h2>" + note + "".join(parts)


def _folded(content: str, title: str, is_open: bool = False) -> str:
    if not content:
        return ""
    return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>{content}</details>"


def _cost(summary: Summary) -> str:
    tables = [table for table in (controller_cost_table(summary), decisions_table(summary)) if table.rows]
    words = f"<p>{escape(making(summary))}</p>" if making(summary) else ""
    title = "<h2>The price of the controller</h2>"
    return title + words + "".join(_html_table(table, "text") for table in tables) if tables else ""


def _definitions(summary: Summary) -> str:
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in summary["definitions"].items()
    )
    return f'<h2>Definitions</h2><dl class="definitions">{items}</dl>'
