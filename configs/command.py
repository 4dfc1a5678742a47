"""One shape for every command: ``COMMAND CONFIG.yaml key.sub=value ...``.

Options, the config file and overrides may be given in any order. An error that the user can fix is
reported in one message, without a traceback.
"""

import argparse
import errno
import os
import re
import resource
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from configs import log
from configs.load import UserError
from configs.redact import redact
from configs.terminal import visible

EXIT_USER_ERROR = 2
"""The exit code for an error that the user can fix, so that trying again is of no use."""

EXIT_INTERRUPTED = 128 + signal.SIGINT

EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE

MAX_OPEN_FILES = 1 << 20
"""More than any process here opens; some systems have a hard limit of 10^9."""

_OVERRIDE = re.compile(r"\w[\w-]*(\.\w[\w-]*)*=")


class CommandParser(argparse.ArgumentParser):
    """An argument parser that takes options and positional arguments in any order.

    With `takes_overrides`, a word such as ``key.sub=value`` is an override in any position, also
    before the verb or the config file; with `words`, all other words after the config file are the
    argument of that name. A single ``--`` is accepted and has no effect.
    """

    def __init__(self, description: str, takes_overrides: bool = False, words: str = "") -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,  # else it would be unclear whether a word is an option's value
        )
        self._takes_overrides = takes_overrides
        self._words = words

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Adds an argument; words of any number (``*``) may be left out."""
        if settings.get("nargs") == "*" and not names[0].startswith("-"):
            settings.setdefault("default", [])  # without one argparse calls it required
        return super().add_argument(*names, **settings)

    def parse_args(  # type: ignore[override]  # one signature instead of argparse's overloads
        self, args: Sequence[str] | None = None, namespace: None = None
    ) -> argparse.Namespace:
        """The arguments; ends the process with exit code 2 and a message if they are wrong."""
        words = list(sys.argv[1:] if args is None else args)
        if "--" in words:
            words.remove("--")
        if self._takes_overrides:
            words = self._with_overrides_last(words)
        arguments = self.parse_intermixed_args(words, namespace)
        if self._words:  # argparse cannot tell them from overrides, and takes all as those
            given = arguments.overrides
            overrides = [word for word in given if is_override(word)]
            arguments.overrides = overrides
            setattr(arguments, self._words, [word for word in given if word not in overrides])
        return arguments

    def _with_overrides_last(self, words: Sequence[str]) -> list[str]:
        """`words` in their order, but all overrides after all other positional arguments."""
        takes_value = {
            name: action.nargs is None for action in self._actions for name in action.option_strings
        }
        remaining: list[str] = []
        overrides: list[str] = []
        is_value = False
        for word in words:
            is_override = not is_value and _OVERRIDE.match(word) is not None
            (overrides if is_override else remaining).append(word)
            is_value = takes_value.get(word, False)
        return [*remaining, *overrides]


def parser(
    description: str, verbs: Sequence[str] = (), words: tuple[str, str, str] | None = None
) -> CommandParser:
    """The parser of a command that reads a config file, after one of `verbs` if there are any.

    The parsed arguments have `config` (a path), `overrides` (a list of ``key.sub=value``) and, with
    `verbs`, `verb`. With `words` (name, how a word is shown, help), the other words are a list of
    that name. An option that is added must take no value or one value.
    """
    result = CommandParser(description, takes_overrides=True, words=words[0] if words else "")
    if verbs:
        result.add_argument("verb", choices=verbs, help="what to do")
    result.add_argument("config", metavar="CONFIG.yaml", help="the config file")
    result.add_argument(
        "overrides",
        metavar="key.sub=value",
        nargs="*",
        help="values, as YAML, that replace those of the config file; in any position",
    )
    if words:
        name, shown, help_text = words
        result.add_argument(name, metavar=shown, nargs="*", help=help_text)
    return result


def is_override(word: str) -> bool:
    """Whether a word of the command line is an override, ``key.sub=value``."""
    return _OVERRIDE.match(word) is not None


def plain_parser(description: str) -> CommandParser:
    """The parser of a command that reads no config file."""
    return CommandParser(description)


def run(main: Callable[[], int | None]) -> None:
    """Exits with what `main` returns; reports a user's error or a full disk in one message.

    Exit codes: 0 success, 2 an error that the user can fix, 130 an interrupt (Ctrl-C), 141 a reader
    of the output that is gone (``| head``). Any other error keeps its traceback.
    """
    log.configure()
    raise_open_files_limit()
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        code = _report(str(error))
    except BrokenPipeError:
        if not _is_output_closed():
            raise
        code = EXIT_BROKEN_PIPE
    except OSError as error:
        message = _describe_os_error(error)
        if message is None:
            raise
        code = _report(message)
    except KeyboardInterrupt:  # training and data preparation have handlers of their own
        print("interrupted", file=sys.stderr, flush=True)
        code = EXIT_INTERRUPTED
    sys.stdout.flush()
    sys.exit(code)


def _is_output_closed() -> bool:
    """Whether nobody reads standard output any more; if so, what is left for it is discarded."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    # Python flushes standard output once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def raise_open_files_limit() -> int:
    """The number of files that this process and those it starts may open, raised if possible.

    The usual soft limit of 1024 is made for programs with `select`. Many ranks, shards and worker
    processes need more, and the hard limit allows it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # some systems and containers do not allow it
        return soft
    return wanted


def _describe_os_error(error: OSError) -> str | None:
    """The message for an error of the file system that the user can fix, None for any other."""
    name = error.filename or "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left while writing {name}: free some disk space (or choose another output "
            "folder) and run the same command again; it resumes where it stopped"
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"{name}: {os.strerror(error.errno)}: the limit of this process is {limit:,} open "
            f"files (hard limit {hard:,}): raise it (ulimit -n; in Slurm --propagate=NOFILE)"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{name}: {os.strerror(error.errno)}: check the owner and the permissions"
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
        return f"{name}: {os.strerror(error.errno)}: choose a different path"
    if error.errno == errno.EFBIG:
        return f"{name}: {os.strerror(error.errno)}: raise the limit on file sizes (ulimit -f)"
    return None


def _report(message: str) -> int:
    """Prints `message` to standard error and returns the exit code.

    In a launch of several ranks `pipeline.launch.shared_error` ensures that only one gets here.
    """
    rank = os.environ.get("RANK", "0")
    prefix = "error" if rank == "0" else f"error (rank {rank})"
    print(visible(redact(f"{prefix}: {message}")), file=sys.stderr, flush=True)
    return EXIT_USER_ERROR
