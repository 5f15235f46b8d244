"""`python -m nldc.cli`."""

from nldc.cli import main

if __name__ == "__main__":
    main()
