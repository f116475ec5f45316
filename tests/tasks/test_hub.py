"""CIFAR-10 from a directory and from the Hub: the right images, or one line that says what to do."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_files import REAL, load_folder, needs_real, png, refusal, write_shard
from pyarrow import parquet

from metalr.config import DataConfig, TaskConfig
from metalr.tasks import DataError, hub, make_task
from metalr.tasks.hub import is_reachable, load_cifar10


def test_every_shard_is_read_in_order(hub_folder: Path, pixels: Any) -> None:
    raw = load_folder(hub_folder)
    expected = pixels.transpose(0, 3, 1, 2)
    assert np.array_equal(raw.train.images_NCHW, expected[:8])
    assert np.array_equal(raw.test.images_NCHW, expected[8:])
    assert raw.train.labels_N.tolist() == [0, 1, 2, 9, 3, 4, 5, 6]
    assert raw.test.labels_N.tolist() == [7, 8, 9, 0]
    assert raw.num_classes == 10


def test_files_without_the_configuration_folder_are_found(hub_folder: Path) -> None:
    assert load_folder(hub_folder / "plain_text").test.labels_N.tolist() == [7, 8, 9, 0]


def test_the_second_reading_does_not_decode_but_changed_files_do(
    hub_folder: Path, monkeypatch: pytest.MonkeyPatch, pixels: Any
) -> None:
    first = load_folder(hub_folder)
    with monkeypatch.context() as patched:
        patched.setattr(hub, "decode_shards", lambda *_: pytest.fail("decoded again"))
        assert np.array_equal(load_folder(hub_folder).train.images_NCHW, first.train.images_NCHW)
    write_shard(hub_folder / "plain_text/test-00000-of-00001.parquet", [png(pixels[0])], [3])
    assert load_folder(hub_folder).test.labels_N.tolist() == [3]


def test_a_missing_directory_or_part_names_the_ways_to_provide_it(hub_folder: Path, tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert "nowhere: no such directory" in message
    assert all(
        way in message for way in ("(1) data.dir=DIR", "(2) one run with data.download=true", "(3) a copy")
    )
    (hub_folder / "plain_text/test-00000-of-00001.parquet").unlink()
    assert "no plain_text/test-*.parquet or test-*.parquet in it" in refusal(hub_folder)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub whose port is closed, and an empty cache of its library; returns that cache."""
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "library"))
    return tmp_path / "library"


def _hub_refusal(data: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        load_cifar10(data)
    message = str(caught.value)
    assert "\n" not in message
    assert "uoft-cs/cifar10" in message
    assert all(f"({number})" in message for number in (1, 2, 3))
    return message


def test_without_a_network_one_line_says_what_where_and_how(no_network: Path, cache: Path) -> None:
    message = _hub_refusal(DataConfig())
    assert "http://127.0.0.1:9 cannot be reached" in message
    assert str(cache) in message
    assert str(no_network) in message


def test_a_forbidden_download_asks_nobody(no_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "is_reachable", lambda _url: pytest.fail("asked the network"))
    assert "data.download=false" in _hub_refusal(DataConfig(download=False))


def test_the_offline_switch_of_the_library_is_honoured(
    no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "is_reachable", lambda _url: pytest.fail("asked the network"))
    assert "HF_HUB_OFFLINE is set" in _hub_refusal(DataConfig())


def test_a_failing_download_is_one_line(no_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_args: object, **_kwargs: object) -> None:
        assert not datasets.config.HF_HUB_OFFLINE
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(hub, "is_reachable", lambda _url: True)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert "Couldn't reach the Hub" in _hub_refusal(DataConfig())


def _fill_library_cache(library: Path, folder: Path) -> None:
    """What `datasets.load_dataset` leaves behind after it has fetched the repository."""
    import datasets

    files = {part: str(folder / f"plain_text/{part}-*.parquet") for part in ("train", "test")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(library))
    source = Path(loaded["train"].cache_files[0]["filename"]).parent
    target = library / "uoft-cs___cifar10/plain_text/0.0.0/0123abcd"
    shutil.copytree(source, target)
    for path in list(target.glob("parquet-*")):
        path.rename(path.with_name(path.name.replace("parquet-", "cifar10-")))
    info = json.loads((target / "dataset_info.json").read_text())
    info |= {"config_name": "plain_text", "dataset_name": "cifar10"}
    (target / "dataset_info.json").write_text(json.dumps(info))


def test_a_cached_copy_of_the_hub_works_without_a_network(
    no_network: Path, hub_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from huggingface_hub import constants

    _fill_library_cache(no_network, hub_folder)
    load_dataset = datasets.load_dataset

    def load_offline(*args: Any, **kwargs: Any) -> Any:
        assert (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE) == (True, True)
        return load_dataset(*args, **kwargs)

    monkeypatch.setattr(datasets, "load_dataset", load_offline)
    raw, direct = load_cifar10(DataConfig()), load_folder(hub_folder)
    assert np.array_equal(raw.train.images_NCHW, direct.train.images_NCHW)
    assert np.array_equal(raw.test.labels_N, direct.test.labels_N)
    assert (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE) == (False, False)

    # From now on the decoded images suffice, without the library.
    with monkeypatch.context() as patched:
        patched.setattr(datasets, "load_dataset", lambda *_args, **_kwargs: pytest.fail("library used"))
        again = load_cifar10(DataConfig())
        assert np.array_equal(again.train.images_NCHW, direct.train.images_NCHW)

    # Damaged decoded images, or a damaged pointer to them, are made again from the library's copy.
    for path in (*cache.glob("cifar10-train-*.npy"), cache / "cifar10-hub.json"):
        path.write_bytes(b"damaged")
        assert np.array_equal(load_cifar10(DataConfig()).train.images_NCHW, direct.train.images_NCHW)
    shutil.rmtree(cache)
    shutil.rmtree(no_network)
    assert "cannot be reached" in _hub_refusal(DataConfig())


def test_is_reachable_needs_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(int(self.path[1:]))
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        answers = [is_reachable(f"{url}/{status}", timeout_s=10) for status in (200, 401, 404, 503)]
        server.shutdown()
        thread.join()
    assert answers == [True, True, True, False]
    with socket.socket() as silent:  # accepts the connection and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert not is_reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)
    assert not is_reachable("http://127.0.0.1:9")
    assert not is_reachable("no url")


@needs_real
def test_a_real_task_end_to_end(tmp_path: Path) -> None:
    (path,) = REAL.glob("plain_text/test-*.parquet")
    table = parquet.read_table(path)
    (tmp_path / "plain_text").mkdir()
    for name, start, count in (("train-0", 0, 500), ("train-1", 500, 400), ("test-0", 900, 200)):
        parquet.write_table(table.slice(start, count), tmp_path / f"plain_text/{name}.parquet")
    config = TaskConfig(
        dataset="cifar10", num_test=100, image_size=16, network="resnet18", width=8, augmentation="standard"
    )
    task = make_task(config, DataConfig(dir=str(tmp_path)), torch.device("cpu"))
    sizes = {name: tuple(split.images_BCHW.shape) for name, split in task.splits.items()}
    assert sizes == {
        "train": (450, 3, 16, 16),
        "inner_valid": (150, 3, 16, 16),
        "outer_valid": (300, 3, 16, 16),
        "test": (100, 3, 16, 16),
    }
    images, labels = task.train_batch(torch.arange(64), torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy(task.make_model(0)(images), labels)
    assert 1.0 < float(loss.detach()) < 6.0
