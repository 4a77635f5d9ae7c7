"""`minigpt` and `python -m minigpt`."""

import time

STARTED = time.monotonic()  # before anything heavy is imported: `--minutes` counts from here


def main() -> None:
    """Run the command line."""
    from minigpt.cli import run

    raise SystemExit(run(STARTED))


if __name__ == "__main__":
    main()
