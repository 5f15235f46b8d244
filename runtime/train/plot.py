"""Draw the loss curves of a run's log; needs the `plots` extra."""

import csv
from pathlib import Path


def plot_losses(log: Path, picture: Path) -> None:
    """Draw training and held-out losses over clean tokens, with the stages marked.

    Args:
        log: The `log.csv` of a run.
        picture: The image to write; its suffix chooses the format.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    tokens = [int(row["clean_tokens"]) / 1e6 for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for axes, loss, title in ((left, "ar", "AR loss"), (right, "diffusion", "diffusion loss")):
        for name, label, style in ((loss, "training", "-"), (f"held_out_{loss}", "held out", "--")):
            points = [
                (at, float(row[name]))
                for at, row in zip(tokens, rows, strict=True)
                if loss == "ar" or row["stage"] != "ar"
            ]
            axes.plot(*zip(*points, strict=True), style, label=label)
        for at, row, before in zip(tokens[1:], rows[1:], rows, strict=False):
            if row["stage"] != before["stage"]:
                axes.axvline(at, color="0.8", zorder=0)
                axes.text(at, axes.get_ylim()[1], f" {row['stage']}", fontsize=7, va="top")
        axes.set(title=title, xlabel="clean tokens, millions", ylabel="nats a token")
        axes.legend()
    figure.savefig(picture, dpi=110)
    plt.close(figure)
