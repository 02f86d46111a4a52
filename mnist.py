"""MNIST and Fashion-MNIST as whole tensors, checked before they are used.

Download, checksums of the archives and parsing are torchvision's; this module
adds the checks that torchvision leaves out (a truncated, swapped or foreign
file) and small stand-ins for machines without data and without a network.

Datasets live in the folder named by the environment variable ``DATA_DIR``
(default ``data``), in torchvision's layout: ``MNIST/raw/…``,
``FashionMNIST/raw/…``. With ``DEMO=1`` the stand-ins are written to its
subfolder ``demo`` and used instead.
"""

import contextlib
import hashlib
import io
import os
import socket
import struct
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
DEMO_MARKER = "DEMO"  # a file of this name marks a folder of stand-ins
TIMEOUT = 30  # seconds without a byte from a mirror before it is given up


class DataError(RuntimeError):
    """A dataset cannot be used; the message says why and what to do."""


class DataUnavailable(DataError):
    """A dataset is neither on the disk nor to be downloaded."""


def is_demo() -> bool:
    """Whether ``DEMO=1`` asks for the stand-ins."""
    return os.environ.get("DEMO", "") not in ("", "0")


def data_dir() -> Path:
    """The folder that holds (or will hold) the datasets."""
    root = Path(os.environ.get("DATA_DIR") or "data")
    return root / "demo" if is_demo() else root


def load(
    name: str, train: bool, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Load one split of a dataset as two tensors on ``device``.

    Files that are there are used without a network; missing ones are
    downloaded by torchvision (with ``DEMO=1``: written by `write_demo`).

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
    root = data_dir()
    folder = root / name / "raw"
    missing = [file for file in MD5[name] if not (folder / file).is_file()]
    if missing:
        _provide(name, root, missing)
    prefix = "train-" if train else "t10k-"
    for file in MD5[name]:
        if file.startswith(prefix):
            _check(name, folder / file)
    split = DATASETS[name](root, train=train)
    if len(split.data) != len(split.targets) or split.targets.max() > 9:
        raise DataError(
            f"{folder}/{prefix}*: {len(split.data)} images, "
            f"{len(split.targets)} labels up to label "
            f"{split.targets.max()}; they do not belong together. "
            "Delete them and run again to download them anew."
        )
    # (N, 28, 28) uint8 -> (N, 1, 28, 28) float32
    images = split.data.to(device).unsqueeze(1).float().div_(255)
    return images, split.targets.to(device)


def _provide(name: str, root: Path, missing: list[str]) -> None:
    """Download the missing files, or write the stand-ins."""
    folder = root / name / "raw"
    try:
        if is_demo():
            write_demo(root)
            return
        print(f"Downloading {name} to {folder} …")
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            # torchvision's progress bars would litter the exported report
            with contextlib.redirect_stderr(io.StringIO()):
                DATASETS[name](root, download=True)
        finally:
            socket.setdefaulttimeout(timeout)
    except Exception as error:
        # an interrupted extraction leaves a file that looks complete
        for file in missing:
            with contextlib.suppress(DataError, OSError):
                _discard_damaged(name, folder / file)
        if isinstance(error, OSError) and error.filename:
            raise DataError(
                f"{name} cannot be written to {folder}: {error.strerror}. "
                "Set DATA_DIR to a folder with free space that you may "
                "write to."
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataUnavailable(
            f"{name} is not in {folder} and cannot be downloaded ({reason}). "
            f"Missing: {', '.join(missing)}. Connect to the internet, copy "
            f"the files (also as .gz) to {folder}, or set DATA_DIR to the "
            f"folder that holds {name}/raw."
        ) from error


def _discard_damaged(name: str, file: Path) -> None:
    try:
        if file.is_file():
            _check(name, file)
    except DataError:
        file.unlink()


def _check(name: str, file: Path) -> None:
    """Raise `DataError` unless ``file`` is what its name says it is."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}. Mend its permissions."
        ) from error
    if not (file.parents[2] / DEMO_MARKER).exists():
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if digest == MD5[name][file.name]:
            return
        known = {
            md5: f"{dataset}'s {other}"
            for dataset, files in MD5.items()
            for other, md5 in files.items()
        }
        what = f"it holds {known[digest]}" if digest in known else ""
        what = what or _header_problem(file.name, content)
        what = what or "its content is not the published one (MD5 differs)"
    else:
        what = _header_problem(file.name, content)
    if what:
        raise DataError(
            f"{file} is not {name}'s {file.name}: {what}. "
            "Delete the file and run again to download it anew."
        )


def _header_problem(file_name: str, content: bytes) -> str:
    """Say what contradicts the IDX header of a file, or nothing.

    IDX (yann.lecun.com/exdb/mnist): magic number 0x0000 08 ndim, then ndim
    big-endian 32-bit sizes, then the bytes.
    """
    shape = (28, 28) if "images" in file_name else ()
    ndim = 1 + len(shape)
    if len(content) < 4 + 4 * ndim:
        return f"it ends after {len(content)} bytes, inside its header"
    magic, *sizes = struct.unpack_from(f">{1 + ndim}I", content)
    if magic != 0x0800 + ndim:
        return f"its magic number is {magic:#x}, expected {0x0800 + ndim:#x}"
    if tuple(sizes[1:]) != shape:
        return f"its images are {sizes[1:]} pixels, expected {list(shape)}"
    expected = 4 + 4 * ndim + int(np.prod(sizes))
    if len(content) != expected:
        return f"it has {len(content)} bytes, its header says {expected}"
    return ""


def write_demo(root: Path | str) -> None:
    """Write the stand-ins as real IDX files in torchvision's layout.

    "MNIST" becomes scikit-learn's 1,797 handwritten digits (8 x 8, scaled
    to 28 x 28), "FashionMNIST" 28 x 28 patches of its two photographs, whose
    labels carry no meaning. One image in six is a test image.
    """
    root = Path(root)
    digits, labels = load_digits(return_X_y=True)
    # (1797, 64) in 0…16 -> (1797, 28, 28) in 0…255
    small = torch.from_numpy(digits).float().view(-1, 1, 8, 8) * (255 / 16)
    large = F.interpolate(small, size=28, mode="bicubic").squeeze(1)
    photos = np.stack(load_sample_images().images).mean(axis=3)  # grey
    patches = np.concatenate(
        [
            extract_patches_2d(p, (28, 28), max_patches=900, random_state=0)
            for p in photos
        ]
    )
    stand_ins = {
        "MNIST": (large.clamp(0, 255).numpy(), labels),
        "FashionMNIST": (patches, np.arange(len(patches)) // 6 % 10),
    }
    root.mkdir(parents=True, exist_ok=True)
    _write(root / DEMO_MARKER, b"Stand-ins, not the published datasets.\n")
    for name, (images, targets) in stand_ins.items():
        folder = root / name / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        is_test = np.arange(len(images)) % 6 == 0
        for prefix, chosen in (("train", ~is_test), ("t10k", is_test)):
            for kind, array in (("images", images), ("labels", targets)):
                array = np.rint(array[chosen]).astype(np.uint8)
                header = struct.pack(
                    f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape
                )
                file = f"{prefix}-{kind}-idx{array.ndim}-ubyte"
                _write(folder / file, header + array.tobytes())


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, also with two writers at once."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
