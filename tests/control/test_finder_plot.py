from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from metalr.control.finder import LRFinderResult
from metalr.control.finder_rules import FinderCurve, suggestions_of


def result_of(losses: np.ndarray, *, exploded: bool = False) -> LRFinderResult:
    lrs = tuple(float(lr) for lr in np.geomspace(1e-5, 10, 100))[: len(losses)]
    curve = FinderCurve(lrs, tuple(float(loss) for loss in losses), 2.3, exploded, len(losses))
    return LRFinderResult(curve, suggestions_of(curve), "valley")


def bowl() -> np.ndarray:
    return np.concatenate([np.full(40, 2.3), np.linspace(2.3, 1.2, 30), np.linspace(1.2, 4.0, 15)])


def test_the_suggestions_are_marked_where_they_lie_and_named(tmp_path: Path) -> None:
    result = result_of(bowl(), exploded=True)
    figure = result.plot(tmp_path / "curve.svg")
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    marks = {str(line.get_label()).split(":")[0]: line for line in axes.lines}
    for rule, suggestion in result.suggestions.items():
        assert marks[rule].get_xdata()[0] == suggestion.lr
        assert f"{suggestion.lr:.2g}" in str(marks[rule].get_label())
    assert list(marks["smoothed"].get_ydata()) == list(result.curve.smoothed())
    text = (tmp_path / "curve.svg").read_text()
    ElementTree.fromstring(text)
    assert all(word in text for word in ("valley", "steepest", "minimum", "explodes", "training loss"))


def test_the_same_curve_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        result_of(bowl()).plot(tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "explodes" not in (tmp_path / "a.svg").read_text()  # negative control of the mark above


def test_png_by_its_suffix_and_no_other_file(tmp_path: Path) -> None:
    result_of(bowl()).plot(tmp_path / "curve.PNG")
    assert (tmp_path / "curve.PNG").read_bytes().startswith(b"\x89PNG")
    for bad in ("curve.xyz", "curve"):
        with pytest.raises(ValueError, match=r"cannot be saved as .*; take .svg or .png"):
            result_of(bowl()).plot(tmp_path / bad)


def test_without_suggestions_the_title_says_why(tmp_path: Path) -> None:
    assert "flat" in result_of(np.full(100, 2.3)).plot().axes[0].get_title(loc="left")
    curve = FinderCurve((), (), math.nan, True, 0)
    empty = LRFinderResult(curve, suggestions_of(curve), "valley")
    assert "nan" in empty.plot(tmp_path / "empty.svg").axes[0].get_title(loc="left")
