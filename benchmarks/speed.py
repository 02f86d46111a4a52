"""How fast the report's training loop is, against the machine and the usual.

    DATA_DIR=… python -m benchmarks.speed

In one run, interleaved: (a) this machine's ceiling for matrix products, with
inputs rounded as the loop's are where the machine can do that, and in
float32; (b) the notebook's training loop with its model; (c) the usual loop
(DataLoader, ToTensor for each image, ``.item()`` in each step, plain Adam)
with the same model. Medians with the smallest and largest value. Then where
the time of (b) goes, and its time and memory as data and batches grow, each
in a process of its own: how much its peak memory rises from just before
training, the training images (3 kB each) included.
"""

import multiprocessing
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import datasets
from torchvision.transforms import ToTensor

from benchmarks.report import definitions, get_device, parameters
from checks import Linear, rounded_products
from mnist import load
from network import CVAE

REPEATS = 9
IMAGES = 60 * parameters().BATCH_SIZE  # for each repeat of (b)
USUAL_IMAGES = 3_200  # and of (c)
CELLS = definitions()
FIGURE = Path(__file__).parent / "speed.png"
KINDS = {
    "aten::mm": "matrix products",
    "aten::addmm": "matrix products",
    "aten::_fused_adam_": "optimiser",
}


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of some work, finished also on an accelerator."""
    start = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def ceiling(device: torch.device, products: AbstractContextManager) -> float:
    """Operations per second of a large matrix product."""
    n, repeats = (2048, 10) if device.type == "cpu" else (8192, 50)
    one = torch.randn(n, n, device=device)
    layer = Linear(n, n, bias=False, device=device)
    with products:
        layer(one)
        time_ = seconds(lambda: [layer(one) for _ in range(repeats)], device)
    return repeats * 2 * n**3 / time_


def our_loop(
    model: CVAE,
    images: torch.Tensor,
    labels: torch.Tensor,
    batch_size: int = parameters().BATCH_SIZE,
) -> None:
    """One epoch of the notebook's routine, as its first ones.

    The rate is low because each call starts its schedule anew; it changes
    nothing about the time.
    """
    CELLS.train(
        model,
        images,
        labels,
        epochs=1,
        batch_size=batch_size,
        learning_rate=1e-3,
        distorted=parameters().DISTORTED,
    )


def usual_loop(model: CVAE, loader: DataLoader) -> None:
    """One epoch as most public notebooks write it."""
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    total = 0.0
    for images, labels in loader:
        terms = CELLS.loss_terms(model, images.to(device), labels.to(device))
        loss = sum(terms).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()


def where_time_goes(work: Callable[[], object]) -> Counter[str]:
    """Seconds of some work on the CPU, by the kind of operation."""
    took: Counter[str] = Counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        total = seconds(work, torch.device("cpu"))
    for event in profiler.key_averages():
        if event.key.startswith("aten::"):
            kind = KINDS.get(event.key, "element-wise and others")
            took[kind] += event.self_cpu_time_total / 1e6
    took["Python, autograd, progress bar"] = total - took.total()
    return took


def operations_per_image(model: CVAE, images: torch.Tensor) -> float:
    """Floating-point operations of one training step, by PyTorch's count."""
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    with FlopCounterMode(display=False) as counter:
        sum(CELLS.loss_terms(model, images, labels)).mean().backward()
    model.zero_grad()
    return counter.get_total_flops() / len(images)


def measure_one(
    images: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> tuple[float, float]:
    """Seconds of an epoch and the memory it takes (MB)."""
    device = get_device()
    before = peak_memory(device)
    images, labels = images.to(device), labels.to(device)
    model = CVAE(parameters().LATENT_DIM).to(device)
    our_loop(model, images, labels, batch_size)  # warm-up
    work = partial(our_loop, model, images, labels, batch_size)
    took = seconds(work, device)
    return took, peak_memory(device) - before


def peak_memory(device: torch.device) -> float:
    """The largest memory this process has held so far, in MB."""
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # Linux: not the parent's peak, as ru_maxrss
        kilobytes = status.read_text().split("VmHWM:")[1].split()[0]
        return int(kilobytes) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes or kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def growth_figure(
    sizes: dict[int, tuple], batches: dict[int, tuple], images: int
) -> None:
    """Seconds and memory against training images and batch size."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
    for ax, rows, label in (
        (axes[0], sizes, "training images"),
        (axes[1], batches, f"batch size ({images:,} images)"),
    ):
        x = list(rows)
        took, peak = zip(*rows.values(), strict=True)
        ax.plot(x, took, "o-", color="C0")
        ax.set(xlabel=label, ylabel="seconds per epoch")
        ax.set_ylim(0, None)
        twin = ax.twinx()
        twin.plot(x, peak, "s--", color="C1")
        twin.set_ylabel("memory, MB (dashed)")
        twin.set_ylim(0, None)
        ax.set_xticks(x)
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(list(batches), list(batches))
    fig.savefig(FIGURE, dpi=150)


def main() -> None:
    """Measure and print the tables."""
    device = get_device()
    images, labels = load("MNIST", True, device)
    torch.manual_seed(0)
    model = CVAE(parameters().LATENT_DIM).to(device)
    per_image = operations_per_image(model, images[:512])
    usual = DataLoader(
        Subset(
            datasets.MNIST(
                os.environ.get("DATA_DIR", "data"), transform=ToTensor()
            ),
            range(USUAL_IMAGES),
        ),
        batch_size=128,
        shuffle=True,
    )
    few = images[:IMAGES], labels[:IMAGES]
    our_loop(model, *few)  # warm-up
    top, top_rounded, ours, theirs = [], [], [], []
    for _ in range(REPEATS):
        top.append(ceiling(device, nullcontext()) / 1e9)
        top_rounded.append(ceiling(device, rounded_products()) / 1e9)
        took = seconds(lambda: our_loop(model, *few), device)
        ours.append(IMAGES / took)
        took = seconds(lambda: usual_loop(model, usual), device)
        theirs.append(USUAL_IMAGES / took)
    rate = np.array(ours) * per_image / 1e9

    def line(name: str, values: list[float] | np.ndarray, unit: str) -> None:
        low, mid, high = (
            f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
            for value in np.quantile(values, [0, 0.5, 1])
        )
        print(f"| {name} | {mid} | {low} … {high} | {unit} |")

    print(f"{device}, {torch.get_num_threads()} threads, {REPEATS} repeats")
    print("| | median | smallest … largest | |\n|:--|--:|--:|:--|")
    line("(a) matrix product, inputs rounded", top_rounded, "GFLOP/s")
    line("the same in float32", top, "GFLOP/s")
    line("(b) the report's loop", ours, "images/s")
    line(f"(b), {per_image / 1e6:.2f} MFLOP per image", rate, "GFLOP/s")
    line("**(b) as a share of (a)**", rate / np.array(top_rounded), "")
    line("as a share of float32", rate / np.array(top), "")
    line("(c) the usual loop", theirs, "images/s")
    line("(b) / (c)", np.array(ours) / np.array(theirs), "times")

    if device.type == "cpu":  # its times on an accelerator mean nothing
        took = where_time_goes(lambda: our_loop(model, *few))
        print("\n| where a step's time goes | share |\n|:--|--:|")
        for kind, part in took.most_common():
            print(f"| {kind} | {part / took.total():.1%} |")

    own_batch = parameters().BATCH_SIZE
    tasks = [(n, own_batch) for n in (15_000, 30_000, 60_000)]
    tasks += [(15_000, b) for b in (64, 128, 256, 1024)]
    images, labels = images.cpu(), labels.cpu()
    with ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        max_tasks_per_child=1,
    ) as pool:
        results = {
            (n, batch): pool.submit(
                measure_one, images[:n].clone(), labels[:n].clone(), batch
            ).result()
            for n, batch in tasks
        }
    print("\n| images | batch | s per epoch | memory, MB |")
    print("|--:|--:|--:|--:|")
    for (number, batch), (took, peak) in results.items():
        print(f"| {number:,} | {batch} | {took:.2f} | {peak:,.0f} |")
    sizes = {n: results[n, b] for n, b in tasks if b == own_batch}
    batches = {b: results[n, b] for n, b in sorted(tasks) if n == 15_000}
    growth_figure(sizes, batches, 15_000)


if __name__ == "__main__":
    main()
