"""mnist.py: good, damaged, swapped, missing files; downloads on loopback."""

import gzip
import hashlib
import http.server
import os
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import mnist

PUBLISHED = Path(os.environ.get("DATA_DIR") or "data")
TRAIN_IMAGES = "MNIST/raw/train-images-idx3-ubyte"
TRAIN_LABELS = "MNIST/raw/train-labels-idx1-ubyte"


def idx(array: torch.Tensor) -> bytes:
    """Bytes in the datasets' own format: type and sizes, then the values."""
    sizes = struct.pack(
        f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape
    )
    return sizes + array.to(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The stand-ins as MNIST's files."""
    found = {}
    for prefix, train in (("train", True), ("t10k", False)):
        images, labels = mnist.stand_ins("MNIST", train)
        found[f"{prefix}-images-idx3-ubyte"] = idx(images)
        found[f"{prefix}-labels-idx1-ubyte"] = idx(labels)
    return found


@pytest.fixture
def data(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with these files, as if they were the published ones."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in files.items():
        (raw / name).write_bytes(content)
        digest = hashlib.md5(content).hexdigest()
        monkeypatch.setitem(mnist.MD5["MNIST"], name, digest)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("DEMO", raising=False)
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize("train", [True, False])
def test_stand_ins_load_like_real_data(
    monkeypatch: pytest.MonkeyPatch, name: str, train: bool
) -> None:
    monkeypatch.setenv("DEMO", "1")
    monkeypatch.setenv("DATA_DIR", "/nowhere")
    images, labels = mnist.load(name, train)
    assert images.shape == (len(labels), 1, 28, 28)
    assert len(labels) > 1000 if train else len(labels) == 300
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert images.min() == 0 and 0.9 < images.max() <= 1
    assert sorted(labels.unique().tolist()) == list(range(10))
    assert len(mnist.CLASSES[name]) == 10
    assert torch.equal(mnist.load(name, train)[0], images)


@pytest.mark.skipif(
    not (PUBLISHED / "MNIST" / "raw").is_dir(),
    reason="DATA_DIR does not hold the published datasets",
)
def test_published_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(PUBLISHED))
    images, labels = mnist.load("MNIST", train=True)
    assert images.shape == (60_000, 1, 28, 28)
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert images.mean().item() == pytest.approx(0.1307, abs=1e-4)
    images, _ = mnist.load("FashionMNIST", train=False)
    assert images.shape == (10_000, 1, 28, 28)


def test_unknown_dataset() -> None:
    with pytest.raises(ValueError, match="KMNIST"):
        mnist.load("KMNIST", train=True)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        (lambda images, labels: b"", "0 bytes"),
        (lambda images, labels: images[:-1], "something else"),
        (lambda images, labels: images[:-1] + b"\x01", "something else"),
        (lambda images, labels: labels, "MNIST's train-labels-idx1"),
    ],
    ids=["empty", "cut", "changed", "swapped"],
)
def test_damaged_file(
    data: Path, content: Callable[[bytes, bytes], bytes], held: str
) -> None:
    file, labels = data / TRAIN_IMAGES, data / TRAIN_LABELS
    file.write_bytes(content(file.read_bytes(), labels.read_bytes()))
    with pytest.raises(mnist.DataError, match="Delete") as failure:
        mnist.load("MNIST", train=True)
    assert str(file) in str(failure.value) and held in str(failure.value)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs Unix")
def test_permission_denied(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    monkeypatch.setenv("DATA_DIR", ".")
    Path(TRAIN_IMAGES).chmod(0)
    user = os.geteuid()
    # An administrator may read everything, anybody else may not.
    os.seteuid(user or 65534)
    try:
        with pytest.raises(mnist.DataError, match="denied") as failure:
            mnist.load("MNIST", train=True)
    finally:
        os.seteuid(user)
    assert TRAIN_IMAGES in str(failure.value)


class Mirror(http.server.BaseHTTPRequestHandler):
    """A mirror that serves ``files`` in the way ``manner`` says."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    manner = "good"
    release = threading.Event()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        content = self.files[self.path.rpartition("/")[2]]
        if self.manner in ("403", "503"):
            self.send_error(int(self.manner))
            return
        if self.manner == "silent":
            self.release.wait(20)
            return
        if self.manner == "html":
            content = b"<html>Please log in to the guest network</html>"
        if self.manner == "garbage":
            content = bytes(len(content))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            half = len(content) // 2
            self.wfile.write(
                content[:half] if self.manner == "half" else content
            )

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror(
    data: Path,
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str], Path]]:
    """A local mirror of these data, and an empty ``DATA_DIR``.

    torchvision's own download code runs; only its list of addresses and
    checksums is exchanged.
    """
    resources = []
    for name, content in files.items():
        packed = gzip.compress(content, compresslevel=1)
        Mirror.files[f"{name}.gz"] = packed
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    dataset = mnist.DATASETS["MNIST"]
    monkeypatch.setattr(dataset, "mirrors", [address])
    monkeypatch.setattr(dataset, "resources", resources)
    monkeypatch.setattr(mnist, "TIMEOUT", 1)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "new"))

    def set_manner(manner: str) -> Path:
        Mirror.manner = manner
        Mirror.release.clear()
        return tmp_path / "new"

    yield set_manner
    Mirror.release.set()
    server.shutdown()
    server.server_close()


def test_download(
    mirror: Callable[[str], Path],
    files: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = mirror("good")
    images, labels = mnist.load("MNIST", train=True)
    expected, digits = mnist.stand_ins("MNIST", train=True)
    assert torch.equal((images[:, 0] * 255).round(), expected.float())
    assert torch.equal(labels, digits)
    for name, content in files.items():
        assert (root / "MNIST" / "raw" / name).read_bytes() == content
    out, err = capsys.readouterr()
    assert "Downloading MNIST" in out
    assert not err  # no progress bar in the report
    mirror("503")  # now on the disk: the network is not asked again
    assert torch.equal(mnist.load("MNIST", train=True)[0], images)


@pytest.mark.parametrize(
    "manner",
    ["403", "503", "html", "garbage", "half", "silent", "no network"],
)
def test_bad_mirror(
    mirror: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    manner: str,
) -> None:
    root = mirror(manner)
    dataset = mnist.DATASETS["MNIST"]
    mirrors = dataset.mirrors
    if manner == "no network":
        monkeypatch.setattr(dataset, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(mnist.DataUnavailable) as failure:
        mnist.load("MNIST", train=True)
    message = str(failure.value)
    assert "train-images-idx3-ubyte" in message
    assert "DATA_DIR" in message and str(root) in message
    assert not root.exists()  # nothing is left behind
    monkeypatch.setattr(dataset, "mirrors", mirrors)
    mirror("good")  # the network is back: no clean-up by hand is needed
    assert len(mnist.load("MNIST", train=True)[0]) > 1000


def test_packed_files_that_are_there_need_no_network(
    mirror: Callable[[str], Path],
) -> None:
    raw = mirror("503") / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in Mirror.files.items():
        (raw / name).write_bytes(content)
    assert len(mnist.load("MNIST", train=False)[0]) == 300


def test_folder_that_cannot_be_written(
    mirror: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = mirror("good")
    root.write_text("a file where the folder should be")
    with pytest.raises(mnist.DataError, match="DATA_DIR"):
        mnist.load("MNIST", train=True)
    assert root.read_text() == "a file where the folder should be"


@pytest.mark.parametrize("size", ["64k", "1200k"])
def test_disk_full(mirror: Callable[[str], Path], size: str) -> None:
    """While downloading, and while unpacking."""
    root = mirror("good")
    root.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root)]
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only an administrator can make a small disk")
    try:
        with pytest.raises(mnist.DataError, match=r"No space left.*DATA_DIR"):
            mnist.load("MNIST", train=True)
        for file in root.rglob("*-ubyte"):  # what there is, is complete
            mnist._read("MNIST", file.parent, file.name)
        assert not list(root.rglob("*.part"))
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def test_only_the_checked_files_are_used(
    data: Path, files: dict[str, bytes]
) -> None:
    """torchvision would prefer its old, unchecked format."""
    processed = data / "MNIST" / "processed"
    processed.mkdir()
    wrong = torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5).long()
    for name in ("training.pt", "test.pt"):
        torch.save(wrong, processed / name)
    images, labels = mnist.load("MNIST", train=True)
    expected, digits = mnist.stand_ins("MNIST", train=True)
    assert torch.equal((images[:, 0] * 255).round(), expected.float())
    assert torch.equal(labels, digits)


def test_home_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(data.parent))
    monkeypatch.setenv("USERPROFILE", str(data.parent))
    monkeypatch.setenv("DATA_DIR", "~/data")
    assert len(mnist.load("MNIST", train=False)[0]) == 300


@pytest.mark.parametrize(
    "cut", [lambda packed: packed[:-9], lambda packed: b"no gzip" + packed]
)
def test_damaged_archive(data: Path, cut: Callable[[bytes], bytes]) -> None:
    file = data / TRAIN_IMAGES
    archive = file.with_name(f"{file.name}.gz")
    archive.write_bytes(cut(gzip.compress(file.read_bytes())))
    file.unlink()
    with pytest.raises(mnist.DataError, match="damaged") as failure:
        mnist.load("MNIST", train=True)
    assert f"{archive} is" in str(failure.value)


@pytest.mark.parametrize(
    "place",
    [
        "MNIST/raw/train-images.idx3-ubyte",
        "MNIST/raw/TRAIN-IMAGES-IDX3-UBYTE.GZ",
        "MNIST/raw/train-images-idx3-ubyte (1)",
        "MNIST/raw/train-images-idx3-ubyte/train-images-idx3-ubyte",
        "MNIST/train-images-idx3-ubyte",
        "data/MNIST/raw/train-images-idx3-ubyte",
    ],
)
def test_a_file_in_a_wrong_place_is_named(
    mirror: Callable[[str], Path], place: str
) -> None:
    root = mirror("503")
    file = root / place
    file.parent.mkdir(parents=True)
    file.write_bytes(b"...")
    with pytest.raises(mnist.DataUnavailable) as failure:
        mnist.load("MNIST", train=True)
    message = str(failure.value)
    assert f"{file} looks like train-images-idx3-ubyte" in message


def test_other_data_are_no_look_alikes(
    mirror: Callable[[str], Path],
) -> None:
    root = mirror("503")
    fashion = root / "FashionMNIST" / "raw"
    fashion.mkdir(parents=True)
    (fashion / "train-images-idx3-ubyte").write_bytes(b"...")
    (root / "MNIST" / "processed").mkdir(parents=True)
    with pytest.raises(mnist.DataUnavailable) as failure:
        mnist.load("MNIST", train=True)
    assert "looks like" not in str(failure.value)
    assert "processed, torchvision's old format" in str(failure.value)


def test_demo_auto_is_for_both_datasets_or_none(
    mirror: Callable[[str], Path],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """MNIST is there, Fashion-MNIST is not to be had."""
    mirror("503")
    dataset = mnist.DATASETS["FashionMNIST"]
    monkeypatch.setattr(dataset, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setenv("DATA_DIR", str(data))
    monkeypatch.setenv("DEMO", "auto")
    assert not mnist.is_demo()
    for name in ("MNIST", "FashionMNIST"):
        mnist.load(name, train=False)
        assert mnist.is_demo()
    printed = capsys.readouterr().out
    assert printed.count("DEMO: stand-ins instead of both datasets.") == 1
    assert "FashionMNIST is not in" in printed
