"""Draw −ELBO against training time: the sixth round of ``tried.md``.

    python -m benchmarks.frontier

The rows are those of ``frontier.csv``; a star is what the report takes.
"""

import csv
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent


def main() -> None:
    """Read the rows, name each point."""
    with (HERE / "frontier.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    fig = Figure(figsize=(9, 3.2), layout="constrained")
    ax = fig.subplots()
    for number, row in enumerate(rows, start=1):
        point = float(row["seconds"]), float(row["elbo"])
        marker = "*" if row["chosen"] else "o"
        label = f"{number}: {row['training']}, {row['epochs']} epochs"
        ax.plot(*point, marker, markersize=8, label=label)
        place = -4, 7 if number % 2 else -16  # neighbours stay apart
        ax.annotate(str(number), point, place, textcoords="offset points")
    ax.margins(0.1)
    ax.set(xlabel="training, seconds", ylabel="−ELBO, nats")
    fig.legend(loc="outside right upper", fontsize=8, frameon=False)
    fig.savefig(HERE / "frontier.png", dpi=120)


if __name__ == "__main__":
    main()
