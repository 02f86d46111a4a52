"""Draw −ELBO against training time: the third round of ``tried.md``.

    python -m benchmarks.frontier

The table's last three columns are −ELBO on training images, on test images,
seconds; rows of the other rounds have more or fewer and are passed over.
"""

import re
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
ROW = r"^\| (.+) \| .+ \| (\d+\.\d+) \| (\d+) \|$"


def main() -> None:
    """Read the table's rows, name each point."""
    rows = re.findall(ROW, (HERE / "tried.md").read_text(), re.MULTILINE)
    fig = Figure(figsize=(7, 3.2), layout="constrained")
    ax = fig.subplots()
    for number, (name, elbo, seconds) in enumerate(rows, start=1):
        point = int(seconds), float(elbo)
        ax.plot(*point, "o", label=f"{number}: {name}")
        ax.annotate(str(number), point, (-12, 4), textcoords="offset points")
    ax.set(xlabel="training, seconds", ylabel="−ELBO, test images, nats")
    fig.legend(loc="outside right upper", fontsize=8, frameon=False)
    fig.savefig(HERE / "frontier.png", dpi=120)


if __name__ == "__main__":
    main()
