"""Parquet files: the right pixels, and one line that names the file and the row where something is wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hub_files import REAL, load_folder, needs_real, png, refusal, write_shard
from PIL import Image
from pyarrow import parquet

from metalr.tasks.parquet import decode_table, read_parquet


@pytest.mark.parametrize("columns", [("image", "label"), ("img", "labels"), ("image", "fine_label")])
def test_other_names_of_the_columns(tmp_path: Path, columns: tuple[str, str], pixels: Any) -> None:
    for part in ("train", "test"):
        write_shard(tmp_path / f"{part}-0.parquet", [png(pixels[0])], [4], columns)
    assert load_folder(tmp_path).train.labels_N.tolist() == [4]


def test_missing_columns_are_named(hub_folder: Path, pixels: Any) -> None:
    path = hub_folder / "plain_text/train-00001-of-00002.parquet"
    write_shard(path, [png(pixels[0])], [1], ("picture", "label"))
    assert f"{path}: no column img or image; it has picture, label" in refusal(hub_folder)
    write_shard(path, [png(pixels[0])], [1], ("img", "class"))
    assert "no column label or labels or fine_label; it has img, class" in refusal(hub_folder)


@pytest.mark.parametrize("kept", [0, 1, 7, 0.5, -1])
def test_a_truncated_file_is_named(hub_folder: Path, kept: float) -> None:
    path = hub_folder / "plain_text/train-00000-of-00002.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    assert f"{path}: not a readable parquet file" in refusal(hub_folder)


def test_garbage_inside_a_page_with_checksum_is_noticed(hub_folder: Path) -> None:
    path = hub_folder / "plain_text/train-00000-of-00002.parquet"
    parquet.write_table(parquet.read_table(path), path, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    content[content.index(b"IHDR") + 30] ^= 1
    path.write_bytes(content)
    assert "not a readable parquet file" in refusal(hub_folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"not an image", "cannot identify"), (None, "no bytes"), (b"", "cannot identify")],
)
def test_an_undecodable_image_is_named_with_its_row(
    hub_folder: Path, pixels: Any, content: bytes | None, reason: str
) -> None:
    path = hub_folder / "plain_text/train-00001-of-00002.parquet"
    write_shard(path, [png(pixels[0]), content], [1, 2])
    message = refusal(hub_folder)
    assert f"{path}: row 1 is not a readable image" in message
    assert reason in message


def test_a_truncated_image_is_named(hub_folder: Path, pixels: Any) -> None:
    path = hub_folder / "plain_text/train-00001-of-00002.parquet"
    write_shard(path, [png(pixels[0])[:100]], [1])
    assert "row 0 is not a readable image" in refusal(hub_folder)


def test_images_of_other_sizes_are_refused(hub_folder: Path, pixels: Any) -> None:
    path = hub_folder / "plain_text/train-00001-of-00002.parquet"
    small = png(pixels[0][:4, :4])
    write_shard(path, [png(pixels[0]), small], [1, 2])
    assert "row 1 has another image size than row 0" in refusal(hub_folder)
    write_shard(path, [small], [1])
    assert "the shards hold images of different sizes" in refusal(hub_folder)
    write_shard(path, [png(pixels[0][:4])], [1])
    assert "images are 4 x 8 pixels, but must be square" in refusal(hub_folder)
    write_shard(path, [png(np.zeros((4, 300, 3)))], [1])
    assert "300 x 4 pixels, more than 256" in refusal(hub_folder)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([1, 10], r"label 10 lies outside 0..9"),
        ([-1, 3], r"label -1 lies outside 0..9"),
        (["cat", "dog"], "holds string or empty cells"),
        ([1.0, 2.0], "holds double or empty cells"),
        ([1, None], "holds int64 or empty cells"),
    ],
)
def test_wrong_labels_are_named(hub_folder: Path, pixels: Any, labels: list[Any], reason: str) -> None:
    path = hub_folder / "plain_text/train-00001-of-00002.parquet"
    write_shard(path, [png(image) for image in pixels[:2]], labels)
    message = refusal(hub_folder)
    assert str(path) in message
    assert reason in message


def test_images_that_are_not_encoded_and_empty_files_are_refused(hub_folder: Path) -> None:
    path = hub_folder / "plain_text/train-00001-of-00002.parquet"
    parquet.write_table(pyarrow.table({"img": [[1, 2], [3, 4]], "label": [1, 2]}), path)
    assert "not encoded images (struct with bytes)" in refusal(hub_folder)
    full = hub_folder / "plain_text/train-00000-of-00002.parquet"
    parquet.write_table(parquet.read_table(full).slice(0, 0), path)
    assert "0 images and 0 labels" in refusal(hub_folder)


@needs_real
def test_real_images_and_labels_are_those_of_the_file() -> None:
    (path,) = REAL.glob("plain_text/test-*.parquet")
    table = read_parquet(path).slice(7_000, 1_000)
    part = decode_table(table, 10, "real")
    assert part.images_NCHW.shape == (1_000, 3, 32, 32)
    for row in (0, 500, 999):
        image = Image.open(io.BytesIO(table["img"][row].as_py()["bytes"]))
        assert [image.getpixel((5, 9))] == [tuple(part.images_NCHW[row, :, 9, 5].tolist())]
        assert table["label"][row].as_py() == part.labels_N[row]
    counts = np.bincount(part.labels_N, minlength=10)
    assert counts.min() > 60
    means = part.images_NCHW.mean(axis=(0, 2, 3)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.02)  # of all 50,000 training images
