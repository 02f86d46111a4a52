"""mnist.py: good, damaged, swapped, missing files; downloads on loopback."""

import gzip
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import mnist

PUBLISHED = Path(os.environ.get("DATA_DIR") or "data")
TRAIN_IMAGES = "MNIST/raw/train-images-idx3-ubyte"
TRAIN_LABELS = "MNIST/raw/train-labels-idx1-ubyte"


@pytest.fixture
def data(
    demo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the demo data that a test may damage."""
    folder = tmp_path / "data"
    shutil.copytree(demo_dir, folder)
    monkeypatch.setenv("DATA_DIR", str(folder))
    monkeypatch.delenv("DEMO", raising=False)
    return folder


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize("train", [True, False])
def test_demo_data_load_like_real_data(
    demo: Path, name: str, train: bool
) -> None:
    images, labels = mnist.load(name, train)
    assert images.shape == (len(labels), 1, 28, 28)
    assert len(labels) == (300 if not train else len(labels)) > 200
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert images.min() == 0 and 0.9 < images.max() <= 1
    assert sorted(labels.unique().tolist()) == list(range(10))
    assert len(mnist.CLASSES[name]) == 10


def test_demo_is_asked_for_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DEMO", "1")
    mnist.load("MNIST", train=True)
    assert (tmp_path / "demo" / TRAIN_IMAGES).is_file()
    assert (tmp_path / "demo" / mnist.DEMO_MARKER).is_file()
    monkeypatch.setenv("DEMO", "0")
    assert mnist.data_dir() == tmp_path


def test_demo_data_are_the_same_every_time(
    demo_dir: Path, tmp_path: Path
) -> None:
    mnist.write_demo(tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 9
    for file in files:
        same = demo_dir / file.relative_to(tmp_path)
        assert file.read_bytes() == same.read_bytes()


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


@pytest.mark.parametrize("size", [0, 3, 10, 16, 17, 5000, -1])
def test_truncated_file(data: Path, size: int) -> None:
    file = data / TRAIN_IMAGES
    content = file.read_bytes()
    file.write_bytes(content[:size])
    with pytest.raises(mnist.DataError, match=r"train-images.*Delete"):
        mnist.load("MNIST", train=True)


@pytest.mark.parametrize("position", range(16))
def test_bit_flipped_in_the_header(data: Path, position: int) -> None:
    file = data / TRAIN_IMAGES
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    with pytest.raises(mnist.DataError, match="train-images"):
        mnist.load("MNIST", train=True)


def test_images_and_labels_swapped(data: Path) -> None:
    images, labels = data / TRAIN_IMAGES, data / TRAIN_LABELS
    swap = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(swap)
    with pytest.raises(mnist.DataError, match=r"0x801.*0x803"):
        mnist.load("MNIST", train=True)


def test_label_beyond_the_classes(data: Path) -> None:
    file = data / TRAIN_LABELS
    content = bytearray(file.read_bytes())
    content[100] = 10
    file.write_bytes(content)
    with pytest.raises(mnist.DataError, match="label 10"):
        mnist.load("MNIST", train=True)


def test_images_and_labels_of_different_length(data: Path) -> None:
    other = data / "MNIST/raw/t10k-labels-idx1-ubyte"
    shutil.copy(other, data / TRAIN_LABELS)
    with pytest.raises(mnist.DataError, match="300 labels"):
        mnist.load("MNIST", train=True)


def test_foreign_content_without_the_marker(data: Path) -> None:
    (data / mnist.DEMO_MARKER).unlink()
    with pytest.raises(mnist.DataError, match="MD5"):
        mnist.load("MNIST", train=True)


def test_file_of_the_other_dataset(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / mnist.DEMO_MARKER).unlink()
    content = (data / TRAIN_IMAGES).read_bytes()
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(
        mnist.MD5["FashionMNIST"], "train-images-idx3-ubyte", digest
    )
    with pytest.raises(mnist.DataError, match="FashionMNIST's train-images"):
        mnist.load("MNIST", train=True)


ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.mark.skipif(
    ROOT and not shutil.which("setpriv"), reason="root may read all"
)
def test_permission_denied(data: Path) -> None:
    (data / TRAIN_IMAGES).chmod(0)
    # An administrator is first stripped of the right to read everything.
    rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    script = "import mnist\ntry: mnist.load('MNIST', True)\n"
    script += "except mnist.DataError as error: print(error)"
    done = subprocess.run(
        [*(rights * ROOT), sys.executable, "-c", script],
        cwd=Path(mnist.__file__).parent,
        capture_output=True,
        text=True,
    )
    assert "cannot be read: Permission denied" in done.stdout, done.stderr
    assert TRAIN_IMAGES in done.stdout


def test_unreadable_file(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(mnist.DataError, match=r"cannot be read.*permissions"):
        mnist.load("MNIST", train=True)


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
    demo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Path]]:
    """A local mirror of the demo data, and an empty ``DATA_DIR``.

    torchvision's own download code runs; only its list of addresses and
    checksums is exchanged, as are the checksums of the unpacked files.
    """
    resources = []
    for name, digest in list(mnist.MD5["MNIST"].items()):
        content = (demo_dir / "MNIST" / "raw" / name).read_bytes()
        packed = gzip.compress(content, mtime=0)
        Mirror.files[f"{name}.gz"] = packed
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
        digest = hashlib.md5(content).hexdigest()
        monkeypatch.setitem(mnist.MD5["MNIST"], name, digest)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    dataset = mnist.DATASETS["MNIST"]
    monkeypatch.setattr(dataset, "mirrors", [address])
    monkeypatch.setattr(dataset, "resources", resources)
    monkeypatch.setattr(mnist, "TIMEOUT", 1)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "new"))
    monkeypatch.delenv("DEMO", raising=False)

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
    demo_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = mirror("good")
    images, labels = mnist.load("MNIST", train=True)
    assert len(images) == len(labels) > 1000
    for file in mnist.MD5["MNIST"]:
        content = (root / "MNIST" / "raw" / file).read_bytes()
        assert content == (demo_dir / "MNIST" / "raw" / file).read_bytes()
    out, err = capsys.readouterr()
    assert "Downloading MNIST" in out
    assert not err  # no progress bar in the report
    mirror("503")  # now on the disk: the network is not asked again
    assert torch.equal(mnist.load("MNIST", train=True)[0], images)


@pytest.mark.parametrize(
    "manner", ["403", "503", "html", "garbage", "half", "silent"]
)
def test_bad_mirror(mirror: Callable[[str], Path], manner: str) -> None:
    root = mirror(manner)
    with pytest.raises(mnist.DataUnavailable) as failure:
        mnist.load("MNIST", train=True)
    message = str(failure.value)
    assert "train-images-idx3-ubyte" in message
    assert "DATA_DIR" in message and str(root) in message
    assert not list(root.rglob("*-ubyte"))  # nothing that looks complete
    mirror("good")  # the network is back: no clean-up by hand is needed
    assert len(mnist.load("MNIST", train=True)[0]) > 1000


def test_no_network(
    mirror: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror("good")
    monkeypatch.setattr(
        mnist.DATASETS["MNIST"], "mirrors", ["http://127.0.0.1:9/"]
    )
    with pytest.raises(mnist.DataUnavailable, match="cannot be downloaded"):
        mnist.load("MNIST", train=True)


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
        for file in root.rglob("*-ubyte"):
            mnist._check("MNIST", file)  # what there is, is complete
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def test_disk_full_while_unpacking(
    mirror: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = mirror("good")

    def half_then_full(source: str, target: str) -> None:
        target_file = Path(target) / Path(source).stem
        target_file.write_bytes(b"\0\0\x08\x03 half of it")
        raise OSError(28, "No space left on device", str(target_file))

    monkeypatch.setattr(
        "torchvision.datasets.utils.extract_archive",
        lambda source, target, *_: half_then_full(source, target),
    )
    with pytest.raises(mnist.DataError, match="No space left"):
        mnist.load("MNIST", train=True)
    assert not list(root.rglob("*-ubyte"))
