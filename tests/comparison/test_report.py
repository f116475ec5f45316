from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from metalr.comparison import summarise, write_report
from metalr.comparison.panels import DASHES, PALETTE
from metalr.comparison.protocol import METHODS
from metalr.comparison.tables import main_table, overall_table, wins_table
from metalr.comparison.wording import strengths_and_weaknesses
from metalr.config import ExperimentConfig
from metalr.training.records import RunRecord
from metalr.training.specs import RunSpec

Build = Callable[..., list[RunRecord]]
Configure = Callable[..., ExperimentConfig]
PROVENANCE: dict[str, Any] = {
    "commit": "abc123",
    "versions": {"torch": "2.12.1"},
    "device": "cpu",
    "hardware": "2 cores <script>alert(1)</script>",
    "dataset_label": "digits & more",
    "harvest": {"num_runs": 40, "num_forks": 1440, "num_epochs": 3150, "wall_s": 412.7},
    "meta_training": {"mlp": {"held_out": {"mean_regret": 0.021}, "wall_s": 8.1}},
    "command": "make compare",
}


def accuracy(spec: RunSpec) -> float | None:
    if spec.method == "constant" and spec.train.lr == 1.0:
        return None
    return 80.0 + METHODS.index(spec.method) + 0.3 * spec.seed


class Checker(HTMLParser):
    """Every opened tag is closed in order, ids are unique, nothing points out of the page."""

    VOID = ("meta", "br", "hr", "img", "input", "link")

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.stack.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href"):
                self.references.append(value or "")


@pytest.fixture(scope="module")
def written(build: Build, config_with: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_with(
        methods=["constant", "cosine", "metalr-mlp"], initial_lrs=[0.1, 1.0], num_resamples=199
    )
    return write_report(build(config, accuracy), config, PROVENANCE, tmp_path_factory.mktemp("report"))


def test_page_is_whole_and_asks_for_nothing(written: Path) -> None:
    text = written.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.stack == []
    assert len(checker.ids) == len(set(checker.ids))
    assert all(reference.startswith("#") for reference in checker.references)
    assert {reference[1:] for reference in checker.references} <= set(checker.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(checker.ids)
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|<img|url\((?!#)", text)
    assert "&lt;script&gt;" in text and "digits &amp; more" in text


def test_no_nan_and_no_none_anywhere(written: Path) -> None:
    for name in ("report.html", "report.md", "summary.json", "manifest.json"):
        text = (written.parent / name).read_text()
        assert not re.search(r"\b(nan|inf|NaN|Infinity|None)\b", text), name


def test_page_tells_what_a_reader_needs(written: Path) -> None:
    text = written.read_text()
    markdown = (written.parent / "report.md").read_text()
    for words in ("smoke data set", "6 runs of 36 diverged", "best tuned baseline (cosine at", "make compare",
                  "6 (0, 1, 2, 3, 4, 5)", "1440", "abc123", "edge of the tuning grid",
                  "took 3,150 epochs of training, once", "takes 24 for a budget of 12 epochs",
                  "after 131.2 such searches", "mean_regret"):  # fmt: skip
        assert words in text, words
        assert words in markdown, words
    assert "prefers-color-scheme" in text and "width=device-width" in text


def test_figures_are_svg_without_a_background_or_a_date(written: Path) -> None:
    figures = sorted((written.parent / "figures").glob("*.svg"))
    assert len(figures) == 3 + 2 * 3
    for figure in figures:
        text = figure.read_text()
        ElementTree.fromstring(text)
        assert "currentColor" in text and "<image" not in text and "dc:date" not in text
        assert "#010203" not in text


def test_manifest_lists_every_file_with_its_checksum(written: Path) -> None:
    folder = written.parent
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == files
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert len(manifest["run_ids"]) == 36 and manifest["commit"] == "abc123"


def test_same_records_same_bytes(build: Build, config_with: Configure, tmp_path: Path) -> None:
    config = config_with(methods=["constant", "metalr-mlp"], initial_lrs=[1.0], seeds=[0, 1])
    records = build(config, accuracy)
    for name, order in (("one", records), ("two", records[::-1])):
        write_report(order, config, PROVENANCE, tmp_path / name)
    first = {p.name: p.read_bytes() for p in (tmp_path / "one").rglob("*") if p.is_file()}
    second = {p.name: p.read_bytes() for p in (tmp_path / "two").rglob("*") if p.is_file()}
    assert first == second
    changed = build(config, lambda spec: 50.0)
    write_report(changed, config, PROVENANCE, tmp_path / "two")
    assert (tmp_path / "two" / "report.html").read_bytes() != first["report.html"]


def test_a_smaller_report_leaves_no_old_figure_and_no_one_elses_file(
    build: Build, config_with: Configure, tmp_path: Path
) -> None:
    wide = config_with(methods=["constant"], initial_lrs=[0.01, 0.1], seeds=[0])
    narrow = config_with(methods=["constant"], initial_lrs=[0.01], seeds=[0])
    write_report(build(wide, accuracy), wide, {}, tmp_path)
    (tmp_path / "figures" / "mine.svg").write_text("mine")
    write_report(build(narrow, accuracy), narrow, {}, tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert "mine.svg" in names and len(names) == 7 and not any("lr0.1." in name for name in names)


@pytest.mark.parametrize("methods", [["metalr-mlp"], ["constant"]])
def test_a_single_diverged_or_lonely_method_still_has_a_page(
    build: Build, config_with: Configure, tmp_path: Path, methods: list[str]
) -> None:
    config = config_with(methods=methods, initial_lrs=[1.0], seeds=[0], budgets=[1])
    path = write_report(build(config, accuracy), config, {}, tmp_path)
    assert "–" in path.read_text()  # noqa: RUF001


def test_lrs_of_zero_can_be_drawn(
    record: Callable[..., RunRecord], build: Build, config_with: Configure, tmp_path: Path
) -> None:
    config = config_with(methods=["cosine"], initial_lrs=[0.1], seeds=[0, 1])
    specs = [made.spec for made in build(config, accuracy)]
    records = [record(spec, 80.0, [0.1 * seed, 0.0, 0.0]) for seed, spec in enumerate(specs)]
    summary = json.loads(write_report(records, config, {}, tmp_path).with_name("summary.json").read_text())
    assert summary["cells"][0]["methods"]["cosine"]["num_lrs_clamped"] == 5


def test_curves_show_the_split_that_every_method_recorded(
    build: Build, config_with: Configure, tmp_path: Path
) -> None:
    config = config_with(methods=["cosine", "metalr-mlp"], initial_lrs=[0.1], seeds=[0])
    records = build(config, accuracy)

    def axis_words() -> str:
        write_report(records, config, {}, tmp_path)
        return next((tmp_path / "figures").glob("accuracy-digits*.svg")).read_text()

    assert "inner_valid accuracy (%)" in axis_words()
    for row in records[0].epochs:
        row["outer_valid/accuracy"] = 0.5
    assert "inner_valid accuracy (%)" in axis_words()
    for row in records[1].epochs:
        row["outer_valid/accuracy"] = 0.5
    assert "outer_valid accuracy (%)" in axis_words()


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#14171a"])
def test_every_method_has_a_colour_that_stands_out_on_both_pages(page: str) -> None:
    assert set(PALETTE) == set(METHODS) and len(set(PALETTE.values())) == len(METHODS)
    # 3:1 is what WCAG 2.2, success criterion 1.4.11, asks of graphics.
    assert all(contrast(color, page) >= 3.0 for color in PALETTE.values())
    assert contrast("#E69F00", "#ffffff") < 3.0  # Okabe and Ito's own orange would not do


TOGETHER = [
    *("constant", "step", "cosine", "wsd", "schedule-free-sgd", "schedule-free-adamw"),
    *("metalr-mlp", "metalr-lstm", "metalr-mlp-sf", "metalr-lstm-sf"),
]
"""What a crowded panel of lines shows."""


def lab(color: str) -> tuple[float, float, float]:
    """CIELAB, in which distances are about what an eye sees."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    rows = ((0.4339, 0.3762, 0.1899), (0.2126, 0.7152, 0.0722), (0.0177, 0.1095, 0.8728))
    x, y, z = (row[0] * r + row[1] * g + row[2] * b for row in rows)
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_lines_of_one_panel_are_told_apart() -> None:
    pairs = list(itertools.combinations(TOGETHER, 2))
    assert min(math.dist(lab(PALETTE[one]), lab(PALETTE[other])) for one, other in pairs) > 25.0
    assert math.dist(lab("#5E7FD0"), lab("#6F7FBF")) < 25.0  # two blues that were taken for each other
    alike = [(one, other) for one, other in pairs if DASHES[one] == DASHES[other]]
    assert alike == []


def test_wins_and_losses_are_a_table_and_a_few_sentences(build: Build, config_with: Configure) -> None:
    config = config_with(methods=["constant", "cosine", "metalr-mlp"], initial_lrs=[0.1, 1.0])
    base = {"constant": 70.0, "cosine": 80.0, "metalr-mlp": 79.0}

    def planted(spec: RunSpec) -> float:
        lost = 30.0 if spec.train.lr == 1.0 and spec.method != "metalr-mlp" else 0.0
        return base[spec.method] - lost + 0.1 * ((spec.seed * 7 + len(spec.method)) % 5)

    summary = summarise(build(config, planted), config, {})
    table = wins_table(summary)
    assert table.methods == ["constant", "cosine"]
    assert table.rows[0][1].startswith("better 2, worse 0 (+8.9")
    assert re.fullmatch(r"better 1, worse 1 \(-1\.\d\d to \+2[89]\.\d\d\)", table.rows[1][1])
    untuned, *_, robust = strengths_and_weaknesses(summary)
    assert re.search(r"nobody tuned, metalr-mlp ends -1\.\d\d pp from the best tuned", untuned)
    assert re.search(r"themselves, untuned, -15\.\d\d \(cosine\) to -2[45]\.\d\d \(constant\) pp", untuned)
    assert "steadiest hand schedule" in robust
    first, *_ = overall_table(summary).rows
    assert first[0] == "metalr-mlp"
    assert "never (0)" in main_table(summary, summary["cells"][1]).rows[0]


@pytest.mark.parametrize(
    ("objective", "loss", "wrong"),
    [
        ("classify", "Cross-entropy", "squared error"),
        ("regress", "Squared error", "cross-entropy"),
        ("reconstruct", "Squared error", "cross-entropy"),
    ],
)
def test_a_report_calls_the_loss_what_it_is(
    build: Build, config_with: Configure, tmp_path: Path, objective: str, loss: str, wrong: str
) -> None:
    plain = config_with(methods=["constant", "cosine"], initial_lrs=[0.1], seeds=[0, 1])
    config = plain.model_copy(update={"task": plain.task.model_copy(update={"objective": objective})})
    records = [
        replace(record, spec=record.spec.model_copy(update={"task": config.task}))
        for record in build(plain, lambda spec: 80.0 + spec.seed)
    ]
    write_report(records, config, PROVENANCE, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert loss in main_table(summary, summary["cells"][0]).header
    texts = [(tmp_path / name).read_text().lower() for name in ("report.md", "report.html")]
    texts += [path.read_text().lower() for path in tmp_path.rglob("*.svg")]
    assert all(wrong not in text for text in texts)
    assert ("variance" in summary["definitions"]["test_accuracy_pct"]) == (objective == "reconstruct")
