"""`python -m nldc.runtime.train`: make the demo model, its drafter, and the tables about them."""

import argparse
from pathlib import Path

from nldc.runtime.train.drafter import DrafterRecipe, train_drafter
from nldc.runtime.train.loop import train
from nldc.runtime.train.plot import plot_losses
from nldc.runtime.train.recipe import Recipe
from nldc.runtime.train.report import as_markdown, measure
from nldc.runtime.train.sampler import SamplerRecipe, train_sampler


def main() -> None:
    """Read the arguments, do one of these, print what there is to print."""
    parser = argparse.ArgumentParser(prog="python -m nldc.runtime.train", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    base = verbs.add_parser("base", help="train the tri-mode model: OUT/checkpoint")
    base.add_argument("out", type=Path)
    base.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    drafter = verbs.add_parser("drafter", help="train the LoRA drafter of a checkpoint")
    drafter.add_argument("checkpoint", type=Path)
    sampler = verbs.add_parser("sampler", help="train the sampler of a checkpoint")
    sampler.add_argument("checkpoint", type=Path)
    report = verbs.add_parser("report", help="measure held-out acceptance")
    report.add_argument("checkpoint", type=Path)
    plot = verbs.add_parser("plot", help="draw the loss curves of a run's log.csv")
    plot.add_argument("log", type=Path)
    plot.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "base":
        train(Recipe(), arguments.out, arguments.resume)
    elif arguments.verb == "drafter":
        train_drafter(DrafterRecipe(), arguments.checkpoint, arguments.checkpoint)
    elif arguments.verb == "sampler":
        train_sampler(SamplerRecipe(), arguments.checkpoint, arguments.checkpoint)
    elif arguments.verb == "plot":
        plot_losses(arguments.log, arguments.picture)
    else:
        print(as_markdown(measure(arguments.checkpoint)))


if __name__ == "__main__":
    main()
