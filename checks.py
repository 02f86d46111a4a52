"""What the network and the report's training refuse, in words of their own.

And how they round products. Here, so that the network and the loop in the
notebook stay readable.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# whether a CPU has instructions for it: without, it would be slower
BFLOAT16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
FINITE = torch.finfo(torch.float32).max


def check_tensor(
    name: str,
    x: Tensor,
    shape: tuple[int | str, ...],
    like: Tensor | None,
    low: float = -FINITE,
    high: float = FINITE,
) -> None:
    """Raise ValueError for another shape, dtype, device or range of values.

    A first size "B" is any. ``like`` has the dtype and the device; None is
    float32 on any device. While gradients are recorded, values are looked
    at on a CPU only: every step would have to wait for an accelerator.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"{name}: expected a tensor, got {type(x).__name__}")
    dtype = torch.float32 if like is None else like.dtype
    device = x.device if like is None else like.device
    sizes = tuple(x.shape)
    if x.ndim and shape[0] == "B":
        sizes = "B", *x.shape[1:]
    if (x.dtype, sizes, x.device) != (dtype, shape, device):
        of = f"{name}: expected {dtype} {shape} on {device}".replace("'", "")
        got = f"{x.dtype} {tuple(x.shape)} on {x.device}"
        raise ValueError(f"{of}, got {got}")
    if x.numel() and (x.device.type == "cpu" or not torch.is_grad_enabled()):
        least, most = x.min().item(), x.max().item()
        if not (low <= least and most <= high):  # NaN is refused as well
            got = f"{least:g} to {most:g}"
            of = f"{low:g} to {high:g}"
            raise ValueError(f"{name}: expected {of}, got {got}")


def check_labels(labels: Tensor, size: int | str, classes: Tensor) -> None:
    """Raise ValueError unless these are ``size`` ("B": any) of the classes.

    ``classes`` are 0, 1, … (num_classes,), where labels are expected.
    """
    check_tensor("labels", labels, (size,), classes, 0, len(classes) - 1)


def check_sizes(*sizes: int) -> None:
    """Raise ValueError unless these are numbers of things."""
    for size in sizes:
        if type(size) is not int or size < 1:
            raise ValueError(
                "latent_dim, num_classes and width: expected integers from "
                f"1, got {size!r}"
            )


class Linear(nn.Linear):
    """A linear layer that follows `rounded_products` on more processors.

    For float32, PyTorch's own layer uses a CPU's instructions for bfloat16
    on the newest processors only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, in_features) to (B, out_features)."""
        rounded = torch.get_float32_matmul_precision() == "medium"
        # products with codes stay exact: they take no time
        large = min(self.weight.shape) > 64
        if not (rounded and large and x.device.type == "cpu" and BFLOAT16):
            return super().forward(x)
        product = F.linear(x.bfloat16(), self.weight.bfloat16()).to(x.dtype)
        return product if self.bias is None else product.add_(self.bias)


@contextmanager
def rounded_products() -> Iterator[None]:
    """Let float32 matrix products round their inputs (TF32, bfloat16)."""
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def expect(name: str, right: bool, expected: str, got: object) -> None:
    """Raise ValueError unless it is right."""
    if not right:
        raise ValueError(f"{name}: expected {expected}, got {got!r}")


def is_number(x: object, low: float, high: float, kind: type = Real) -> bool:
    """Whether x is a number of a kind from low to high."""
    return isinstance(x, kind) and low <= x <= high


def check_training(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    weights: tuple[float, float],
    batch_size: int,
    learning_rate: float,
    distorted: float,
    **others: object,
) -> None:
    """Raise ValueError for what `train` cannot work with."""
    if isinstance(images, Tensor) and isinstance(labels, Tensor):
        sizes = tuple(images.shape), tuple(labels.shape)
        right = sizes[0][:1] == sizes[1]
        expect("images, labels", right, "a label for each image", sizes)
        expect("images", images.numel() > 0, "at least one", sizes[0])
    with torch.no_grad():  # an accelerator's values are looked at here only
        model.check(images, labels)
    count = len(images)
    right = is_number(epochs, 1, np.inf, Integral)
    expect("epochs", right, "an integer from 1", epochs)
    right = is_number(batch_size, 1, count, Integral)
    limit = f"an integer from 1 to {count}, the number of images"
    expect("batch_size", right, limit, batch_size)
    right = is_number(learning_rate, 1e-9, 1e9)
    expect("learning_rate", right, "a number above 0", learning_rate)
    expect("distorted", is_number(distorted, 0, 1), "0 to 1", distorted)
    right = isinstance(weights, tuple | list) and len(weights) == 2
    right = right and all(is_number(w, 0, 1e9) for w in weights)
    limit = "two numbers from 0, not both 0"
    expect("weights", right and any(weights), limit, weights)


def checked(train: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let `train` look at its arguments first."""

    @wraps(train)
    def checked_train(*args: object, **options: object) -> Tensor:
        bound = inspect.signature(train).bind(*args, **options)
        bound.apply_defaults()
        check_training(**bound.arguments)
        return train(*args, **options)

    return checked_train


def stop_if_diverged(
    terms: Tensor, weights: tuple[float, float], epoch: int
) -> None:
    """Raise FloatingPointError if the loss of an epoch is out of bounds.

    A uniformly grey guess costs 543 nats; NaN is not below the bound either.
    """
    means = terms.mean(dim=0).tolist()  # a term of weight 0 may be anything
    loss = sum(w * x for w, x in zip(weights, means, strict=True) if w)
    if not loss < 1e4 * sum(weights):
        raise FloatingPointError(
            f"the training diverges (loss {loss:.3g} in epoch {epoch + 1}): "
            "try a smaller learning rate"
        )
