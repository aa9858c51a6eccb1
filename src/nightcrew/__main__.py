"""`nightcrew` and `python -m nightcrew`."""

from nightcrew.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
