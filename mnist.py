"""MNIST and Fashion-MNIST as whole tensors, checked before they are used.

Downloads are torchvision's; this module adds the checks that it leaves out (a
truncated, swapped or foreign file), uses just the bytes that it has checked,
and brings small stand-ins for machines without data and without a network.

Datasets live in the folder named by the environment variable ``DATA_DIR``
(default ``data``), in torchvision's layout: ``MNIST/raw/…``,
``FashionMNIST/raw/…``. With ``DEMO=1`` the stand-ins are used instead, with
``DEMO=auto`` if one of the datasets is not to be had.
"""

import contextlib
import gzip
import hashlib
import io
import itertools
import os
import re
import shutil
import socket
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from sklearn.feature_extraction.image import extract_patches_2d
from torch.nn import functional as F
from torchvision import datasets

DATASETS = {"MNIST": datasets.MNIST, "FashionMNIST": datasets.FashionMNIST}
CLASSES = {
    "MNIST": [str(digit) for digit in range(10)],
    "FashionMNIST": datasets.FashionMNIST.classes,
}
# The unpacked files, as published: torchvision checks the archives only, and
# none of what already lies in the folder.
MD5 = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
TIMEOUT = 30  # seconds without a byte from a mirror before it is given up


class DataError(RuntimeError):
    """A dataset cannot be used; the message says why and what to do."""


class DataUnavailable(DataError):
    """A dataset is neither on the disk nor to be downloaded."""


def is_demo() -> bool:
    """Whether the stand-ins are used: asked for, or all that there is."""
    return os.environ.get("DEMO", "") not in ("", "0", "auto")


def load(
    name: str, train: bool, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Load one split of a dataset as two tensors on ``device``.

    Files that are there, also packed as .gz, are used without a network;
    missing ones are downloaded by torchvision. With ``DEMO=1`` these are
    `stand_ins`; with ``DEMO=auto`` too, from the first call on, if either
    dataset is missing and cannot be downloaded: no report is real by half.

    Args:
        name: ``"MNIST"`` or ``"FashionMNIST"``.
        train: The training split if true, otherwise the test split.
        device: Where the tensors go.

    Returns:
        images ``(N, 1, 28, 28)`` float32 in [0, 1], labels ``(N,)`` int64.

    Raises:
        ValueError: ``name`` is no dataset of this module.
        DataUnavailable: The files are neither there nor downloadable.
        DataError: A file is damaged, of another dataset or not readable.
    """
    if name not in DATASETS:
        raise ValueError(f"no dataset {name!r}; there are {list(DATASETS)}")
    root = Path(os.path.expanduser(os.environ.get("DATA_DIR") or "data"))
    automatic = os.environ.get("DEMO") == "auto"
    try:
        for each in DATASETS if automatic else [name] * (not is_demo()):
            _download(each, root)
    except DataUnavailable as error:
        if not automatic:
            raise
        print(f"DEMO: stand-ins instead of both datasets. {error}")
        os.environ["DEMO"] = "1"
    if is_demo():
        images, labels = stand_ins(name, train)
    else:
        folder, split = root / name / "raw", "train" if train else "t10k"
        images = _read(name, folder, f"{split}-images-idx3-ubyte")[16:]
        labels = _read(name, folder, f"{split}-labels-idx1-ubyte")[8:]
        images, labels = images.view(-1, 28, 28), labels.long()
    # (N, 28, 28) uint8 -> (N, 1, 28, 28) float32
    images = images.to(device).unsqueeze(1).float().div_(255)
    return images, labels.to(device)


def stand_ins(name: str, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Small data of the same kind, from scikit-learn.

    "MNIST" becomes its 1,797 handwritten digits (8 x 8, scaled to 28 x 28),
    "FashionMNIST" 28 x 28 patches of its two photographs, whose labels carry
    no meaning. One image in six is a test image.

    Returns:
        images ``(N, 28, 28)`` uint8, labels ``(N,)`` int64.
    """
    if name == "MNIST":
        digits, labels = load_digits(return_X_y=True)
        # (1797, 64) in 0…16 -> (1797, 28, 28) in 0…255
        small = torch.from_numpy(digits).float().view(-1, 1, 8, 8) * 255 / 16
        images = F.interpolate(small, size=28, mode="bicubic").squeeze(1)
    else:
        photos = np.stack(load_sample_images().images).mean(axis=3)  # grey
        patches = [
            extract_patches_2d(p, (28, 28), max_patches=900, random_state=0)
            for p in photos
        ]
        images = torch.from_numpy(np.concatenate(patches))
        labels = np.arange(len(images)) // 6 % 10
    chosen = (torch.arange(len(images)) % 6 == 0) != train
    images = images.round().clamp(0, 255).to(torch.uint8)
    return images[chosen], torch.from_numpy(labels)[chosen]


def _download(name: str, root: Path) -> None:
    """Download what is missing of a dataset, or raise and leave nothing."""
    folder = root / name / "raw"
    try:
        missing = [
            file
            for file in MD5[name]
            if not any((folder / f).is_file() for f in (file, f"{file}.gz"))
        ]
    except OSError as error:
        raise _unreadable(error) from error
    if not missing:
        return
    print(f"Downloading {name} to {folder} …")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            # torchvision's progress bars would litter the exported report
            with contextlib.redirect_stderr(io.StringIO()):
                DATASETS[name](scratch, download=True)
            for file in missing:
                _read(name, Path(scratch, name, "raw"), file)
                _move(Path(scratch, name, "raw", file), folder / file)
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise DataError(
                f"{name} cannot be written to {folder}: {error.strerror} "
                f"({error.filename2 or error.filename}). Set DATA_DIR to a "
                "folder with free space that you may write to."
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataUnavailable(
            f"{name} is not in {folder} and cannot be downloaded ({reason}). "
            f"Missing: {', '.join(missing)}. {_look_alikes(root, name)}"
            f"Connect to the internet, copy the files (also as .gz) to "
            f"{folder}, or set DATA_DIR to the folder that holds {name}/raw."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _move(source: Path, target: Path) -> None:
    """Move a file, with its folders; a failure leaves neither behind."""
    new = [p for p in target.parents if not p.exists()]  # innermost first
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, part)
        part.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()
        raise


def _look_alikes(root: Path, name: str) -> str:
    """What lies below ``root`` and may be meant, as a sentence or two."""
    found = ""
    others = {*DATASETS, "KMNIST", "EMNIST", "QMNIST"} - {name}
    for path in itertools.islice(root.rglob("*"), 10_000):
        if others.intersection(path.relative_to(root).parts):
            continue
        if path.name == "processed" and path.is_dir():
            found += f"{path}, torchvision's old format, is not used. "
        plain = re.sub("[^a-z0-9]", "", path.name.lower())
        for file in MD5[name]:
            if plain.startswith(file.replace("-", "")) and path.is_file():
                found += f"{path} looks like {file}: move it to its place. "
    return found


def _unreadable(error: OSError) -> DataError:
    return DataError(
        f"{error.filename} cannot be read: {error.strerror}. "
        "Fix its permissions."
    )


def _read(name: str, folder: Path, file: str) -> torch.Tensor:
    """Bytes of a file, packed or not: (N,) uint8.

    Raises:
        DataError: It is not readable, or not what its name says it is.
    """
    path = folder / file
    if not path.is_file():
        path = folder / f"{file}.gz"
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is damaged ({error}). Delete the file and run again to "
            "download it anew."
        ) from error
    except OSError as error:
        raise _unreadable(error) from error
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest == MD5[name][file]:
        return torch.frombuffer(bytearray(content), dtype=torch.uint8)
    known = {
        md5: f"{dataset}'s {other}"
        for dataset, files in MD5.items()
        for other, md5 in files.items()
    }
    what = known.get(digest, f"{len(content):,} bytes of something else")
    raise DataError(
        f"{path} is not {name}'s {file}: it holds {what} (MD5 differs). "
        "Delete the file and run again to download it anew."
    )
