"""How soon a training is good: the sheet's own measure of speed.

    DATA_DIR=… python -m benchmarks.time_to_quality [--before FOLDER]

Seconds of training until 95 % of 2,000 samples are recognised by the judge of
``quality.py`` and until −ELBO is at most 96 nats on the test images, looked
at after each epoch (not counted): the report's network and loop (five
epochs), the same of an earlier commit if its checkout is given, a plain CVAE
that gets the label by concatenation in the report's loop, and the same in
the usual loop (``DataLoader``, Adam with 1e-3, batches of 128).
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import ToTensor

from benchmarks import quality, report
from benchmarks.report import definitions, parameters
from mnist import load
from network import CVAE

HERE = Path(__file__).resolve()
SHORT, LONG = 5, 25  # epochs
RECOGNISED, ELBO = 0.95, 96
Progress = list[tuple[float, float, float]]
CELLS = definitions()


def watch(
    model: CVAE, train: Callable, judge: quality.Judge, test: quality.Data
) -> Progress:
    """Seconds of training, share recognised, −ELBO after each epoch."""
    progress, looking, start = [], 0.0, time.perf_counter()

    def look(epoch: int) -> None:
        nonlocal looking
        stop = time.perf_counter()
        images, labels = CELLS.prior_samples(model, 200)
        share = quality.share_recognised(judge, images, labels)
        elbo = sum(CELLS.evaluate(model, *test))
        progress.append((stop - start - looking, share, elbo))
        looking += time.perf_counter() - stop

    train(look)
    return progress


def report_model(images: torch.Tensor) -> CVAE:
    """The report's network as it starts, of this commit or an earlier one."""
    torch.manual_seed(0)
    options = {"mean_image": images.mean(dim=0)}
    if "mean_image" not in inspect.signature(CVAE).parameters:
        options = {}
    return CVAE(parameters().LATENT_DIM, **options).to(images.device)


def our_loop(model: CVAE, data: quality.Data, epochs: int) -> Callable:
    """The report's routine, whole images, as a function of `look`."""
    p = parameters()
    return lambda look: CELLS.train(
        model,
        *data,
        epochs,
        batch_size=p.BATCH_SIZE,
        learning_rate=p.LEARNING_RATE,
        after_epoch=look,
    )


def usual_loop(model: CVAE, epochs: int) -> Callable:
    """As most public notebooks write it, as a function of `look`."""
    device = next(model.parameters()).device
    root = os.environ.get("DATA_DIR", "data")
    data = datasets.MNIST(root, transform=ToTensor())

    def train(look: Callable) -> None:
        loader = DataLoader(data, batch_size=128, shuffle=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        total = 0.0
        for epoch in range(epochs):
            for images, labels in loader:
                images, labels = images.to(device), labels.to(device)
                loss = sum(CELLS.loss_terms(model, images, labels)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            look(epoch + 1)

    return train


def row(name: str, progress: Progress) -> str:
    """A row of the table: when, and how good at last."""
    took, shares, elbos = zip(*progress, strict=True)
    cells = []
    for good in (
        [share >= RECOGNISED for share in shares],
        [elbo <= ELBO for elbo in elbos],
    ):
        when = f"{took[good.index(True)]:.1f}" if any(good) else "–"
        cells.append(when)
    cells += [f"{shares[i]:.1%}" for i in (0, SHORT - 1)]
    cells += [f"{elbos[SHORT - 1]:.1f}", f"{len(took)}", f"{took[-1]:.1f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Train, watch, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", type=Path, help="checkout of a commit")
    parser.add_argument("--report-on", metavar="DEVICE")
    args = parser.parse_args()
    # a checkout of another commit is judged by this one's judge
    quality.CACHE = HERE.parent / ".cache" / "judge.pt"
    device = torch.device(args.report_on or report.get_device())
    data, test = (load("MNIST", train, device) for train in (True, False))
    judge = quality.get_judge(data, test)
    model = report_model(data[0])
    ours = watch(model, our_loop(model, data, SHORT), judge, test)
    if args.report_on:
        print(json.dumps(ours))
        return
    rows = {"the report's network and loop": ours}
    if args.before:
        # -P: the modules are those of the checkout
        done = subprocess.run(
            [sys.executable, "-P", str(HERE), "--report-on", str(device)],
            env=os.environ | {"PYTHONPATH": str(args.before)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        name = "the same, an earlier commit"
        rows[name] = json.loads(done.stdout.splitlines()[-1])
    for name, loop in (
        ("a plain CVAE in the report's loop", our_loop),
        ("a plain CVAE in the usual loop", None),
    ):
        torch.manual_seed(0)
        model = quality.concatenating_cvae().to(device)
        run = loop(model, data, LONG) if loop else usual_loop(model, LONG)
        rows[name] = watch(model, run, judge, test)
    print(
        f"| seconds until | {RECOGNISED:.0%} recognised | −ELBO ≤ {ELBO} "
        f"| recognised after epoch 1 | {SHORT} | −ELBO after {SHORT} "
        "| epochs | seconds |\n|:--" + "|--:" * 7 + "|"
    )
    for name, progress in rows.items():
        print(row(name, progress))


if __name__ == "__main__":
    main()
