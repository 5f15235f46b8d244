"""`python -m nldc.runtime.train OUT`: train the demo model's recipe into a folder."""

import argparse
from pathlib import Path

from nldc.runtime.train.loop import train
from nldc.runtime.train.recipe import Recipe


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(prog="python -m nldc.runtime.train", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the state, the log and the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    arguments = parser.parse_args()
    train(Recipe(), arguments.out, arguments.resume)


if __name__ == "__main__":
    main()
