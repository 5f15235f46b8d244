"""`python -m nldc` is the `nldc` command."""

from nldc.cli import main

if __name__ == "__main__":
    main()
