"""One shape for every command: ``COMMAND CONFIG.yaml key.sub=value ...``, errors in one message."""

import argparse
import errno
import os
import sys
import time
from collections.abc import Callable, Sequence

from configs import log
from configs.load import ConfigError, UserError

EXIT_USER_ERROR = 2
LONE_RANK_WAITS_S = 5.0
"""Longer than launchers take to end the peers of a rank that failed."""


def parser(description: str, verbs: Sequence[str] = ()) -> argparse.ArgumentParser:
    """An argument parser with the two arguments that every command takes, after one of `verbs`."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if verbs:
        result.add_argument("verb", choices=verbs, help="what to do")
    result.add_argument("config", metavar="CONFIG.yaml", help="the config file of the run")
    result.add_argument(
        "overrides",
        metavar="key.sub=value",
        nargs="*",
        help="config values to change for this run, as YAML",
    )
    return result


def run(main: Callable[[], int | None]) -> None:
    """Exits with what `main` returns; a user's mistake or a full disk ends in one clear message.

    Exit codes: 0 done, 2 a mistake that a person can mend. Anything else keeps its traceback.
    """
    log.configure()
    try:
        code = main() or 0
    except UserError as error:
        code = _fail(str(error), all_find_it=isinstance(error, ConfigError))
    except OSError as error:
        message = _describe_os_error(error)
        if message is None:
            raise
        code = _fail(message)
    sys.stdout.flush()
    sys.exit(code)


def _describe_os_error(error: OSError) -> str | None:
    name = error.filename or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left while writing {name}: free some disk space (or choose another output "
            "folder) and run the same command again; it goes on where it stopped"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{name}: {os.strerror(error.errno)}: check the owner and the permissions"
    return None


def _fail(message: str, all_find_it: bool = False) -> int:
    """Prints `message`: once for all ranks of a launch as long as they have not met.

    Until then every rank finds the same mistakes in the config, and most others. A rank that may be
    alone waits: when it is not, rank 0 has told it and the launcher ends this one meanwhile.
    """
    rank = os.environ.get("RANK", "0")
    distributed = sys.modules.get("torch.distributed")
    met = distributed is not None and distributed.is_initialized()
    if met:
        print(f"error (rank {rank}): {message}", file=sys.stderr, flush=True)
    elif rank == "0":
        print(f"error: {message}", file=sys.stderr, flush=True)
    elif not all_find_it:
        time.sleep(LONE_RANK_WAITS_S)
        print(f"error (rank {rank}): {message}", file=sys.stderr, flush=True)
    return EXIT_USER_ERROR
