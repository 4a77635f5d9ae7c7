"""`minigpt` and `python -m minigpt`."""

import contextlib
import os
import sys
import time
import traceback
from typing import NoReturn

STARTED = time.monotonic()  # before anything heavy is imported: `--minutes` counts from here


def main() -> None:
    """Run the command line."""
    try:
        from minigpt.cli import run

        status = run(STARTED)
    except KeyboardInterrupt:  # while it was starting
        status = 130
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except Exception:  # a defect of ours must not keep the others waiting, either
        traceback.print_exc()
        status = 1
    end(status)


def end(status: int) -> NoReturn:
    """End this process; as one of several without waiting for what the others may never send."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(status)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
