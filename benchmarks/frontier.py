"""Draw −ELBO against training time: the fifth round of ``tried.md``.

    python -m benchmarks.frontier

The table's last three columns are −ELBO on training images, on validation
images, and seconds. A star is what the report takes, a bold row.
"""

import re
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
ROW = r"^\| ([^|]+) \| .+ \| \**(\d+\.\d+)\** \| (\d+) \|$"


def main() -> None:
    """Read the table's rows, name each point."""
    text = (HERE / "tried.md").read_text("utf-8")
    rows = re.findall(ROW, text.partition("A fifth round")[2], re.MULTILINE)
    fig = Figure(figsize=(9, 3.2), layout="constrained")
    ax = fig.subplots()
    for number, (name, elbo, seconds) in enumerate(rows, start=1):
        point = int(seconds), float(elbo)
        marker = "*" if name.startswith("**") else "o"
        label = f"{number}: {name.strip('*').replace('`', '')}"
        ax.plot(*point, marker, markersize=8, label=label)
        place = -4, 7 if number % 2 else -16  # neighbours stay apart
        ax.annotate(str(number), point, place, textcoords="offset points")
    ax.margins(0.1)
    ax.set(xlabel="training, seconds", ylabel="−ELBO, validation, nats")
    fig.legend(loc="outside right upper", fontsize=8, frameon=False)
    fig.savefig(HERE / "frontier.png", dpi=120)


if __name__ == "__main__":
    main()
