"""The comparison on disk: summary.json, report.md, report.html, figures, and a manifest written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalr.comparison.costs import controller_cost_table, decisions_table, making
from metalr.comparison.page import facts, html_page, reproduction
from metalr.comparison.plots import Picture, draw_figures
from metalr.comparison.summary import summarise
from metalr.comparison.tables import (
    main_table,
    overall_table,
    paired_table,
    tuned_table,
    wins_table,
)
from metalr.comparison.wording import caveats, strengths_and_weaknesses, verdict
from metalr.config import ExperimentConfig
from metalr.training.artifacts import ArtifactError, read_json, write_atomically, write_json
from metalr.training.records import RunRecord

__all__ = ["markdown_report", "write_report"]


def write_report(
    records: Sequence[RunRecord], config: ExperimentConfig, provenance: Mapping[str, Any], folder: Path
) -> Path:
    """The path of report.html, after writing it and its companions into `folder`, each atomically.

    The manifest comes last, with the SHA-256 of every other file; the same records give the same bytes.
    Figures that an earlier report listed in its manifest and this one does not have are removed. Raises
    ValueError where the records cannot be compared (see `summarise`), before anything is written.
    """
    summary = summarise(records, config, provenance)
    pictures = draw_figures(records, summary, config)
    files = _contents(summary, pictures)
    stale = _listed_figures(folder) - set(files)
    for name, content in files.items():
        write_atomically(folder / name, content)
    for name in sorted(stale):
        (folder / name).unlink(missing_ok=True)
    write_json(folder / "manifest.json", _manifest(records, summary, files))
    return folder / "report.html"


def _contents(summary: Mapping[str, Any], pictures: Sequence[Picture]) -> dict[str, bytes]:
    texts = {f"figures/{picture.name}.svg": picture.svg for picture in pictures}
    texts["summary.json"] = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    texts["report.md"] = markdown_report(summary, pictures)
    texts["report.html"] = html_page(summary, pictures)
    return {name: text.encode() for name, text in texts.items()}


def _manifest(
    records: Sequence[RunRecord], summary: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, Any]:
    return {
        **{key: summary[key] for key in ("recipe", "commit", "versions", "device", "hardware")},
        "run_ids": sorted({record.run_id for record in records}),
        "files": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
    }


def _listed_figures(folder: Path) -> set[str]:
    """Figures of the manifest in `folder`, by names that cannot lead out of it."""
    try:
        names = read_json(folder / "manifest.json")["files"]
    except (ArtifactError, KeyError, TypeError):
        return set()
    return {
        f"figures/{Path(name).name}"
        for name in names
        if name.startswith("figures/") and name.endswith(".svg")
    }


def markdown_report(summary: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """The report as Markdown: the words and tables of the HTML page, with links to the figures."""
    lines = [f"# Learning-rate comparison: {summary['recipe']}", f"**{verdict(summary)}**"]
    lines.append("\n".join(f"* {name}: {text}" for name, text in facts(summary).items()))
    lines.append(_bullets(caveats(summary)))
    words = strengths_and_weaknesses(summary)
    if words:
        wins = wins_table(summary)
        lines += ["## Where the controller wins, and where it loses", _bullets(words)]
        lines += [f"### {wins.title}", wins.as_markdown()] if wins.rows else []
    for table in (overall_table(summary), tuned_table(summary)):
        lines += [f"## {table.title}", table.as_markdown()]
    lines.append("## Cell by cell")
    for cell in summary["cells"]:
        table = main_table(summary, cell)
        lines += [f"### {table.title}", table.as_markdown()]
    for table in (paired_table(summary), controller_cost_table(summary), decisions_table(summary)):
        lines += [f"## {table.title}", table.as_markdown()] if table.rows else []
    lines.append(making(summary))
    lines += ["## Figures", "\n".join(f"* [{p.title}](figures/{p.name}.svg)" for p in pictures)]
    lines += [
        "## Definitions",
        "\n".join(f"* `{name}`: {text}" for name, text in summary["definitions"].items()),
    ]
    lines += ["## How to reproduce", f"```sh\n{reproduction(summary)}\n```"]
    return "\n\n".join(line for line in lines if line) + "\n"


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"* {sentence}" for sentence in sentences)
