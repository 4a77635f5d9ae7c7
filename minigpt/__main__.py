"""`minigpt` and `python -m minigpt`."""

import time

STARTED = time.monotonic()  # before anything heavy is imported: `--minutes` counts from here


def main() -> None:
    """Run the command line."""
    try:
        from minigpt.cli import run

        status = run(STARTED)
    except KeyboardInterrupt:  # while it was starting
        status = 130
    raise SystemExit(status)


if __name__ == "__main__":
    main()
