"""Command lines: every order of options, config file and overrides; errors in one message."""

import contextlib
import errno
import itertools
import os
import resource
import subprocess
import sys

import pytest

from configs import command
from configs.load import UserError
from tests.forked import ForkedProcess

OVERRIDES = ["schedule.x=-1", "data.weights={a: 1, b: 2}", "name=a=b", "seed=3"]


def make_parser(*verbs: str) -> command.CommandParser:
    parser = command.parser("A test.", verbs=verbs)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--name")
    parser.add_argument("--step", type=int, required=True)
    return parser


PIECES = (["CONFIG"], OVERRIDES[:2], OVERRIDES[2:], ["--dry-run"], ["--name", "x=y"], ["--step=-4"])


def test_every_order_is_accepted() -> None:
    for pieces in itertools.permutations(PIECES):
        words = [word for piece in pieces for word in piece]
        arguments = make_parser().parse_args(words)
        assert arguments.config == "CONFIG", words
        assert arguments.overrides == [word for word in words if word in OVERRIDES]
        assert (arguments.dry_run, arguments.name, arguments.step) == (True, "x=y", -4)


@pytest.mark.parametrize("position", range(5))
def test_overrides_may_stand_around_a_verb(position: int) -> None:
    words = ["sync", "CONFIG", "--step", "3"]
    words.insert(position, "a.b=1")
    if position == 3:  # that would be the value of --step
        return
    arguments = make_parser("sync", "follow").parse_args(words)
    assert (arguments.verb, arguments.config, arguments.step) == ("sync", "CONFIG", 3)
    assert arguments.overrides == ["a.b=1"]


@pytest.mark.parametrize("position", [0, 1, 2, 3, 5])
def test_a_double_dash_is_accepted_everywhere(position: int) -> None:
    words = ["CONFIG", "a=1", "--dry-run", "--step", "3"]
    words.insert(position, "--")
    arguments = make_parser().parse_args(words)
    assert (arguments.config, arguments.overrides) == ("CONFIG", ["a=1"])
    assert (arguments.dry_run, arguments.step) == (True, 3)


def test_paths_with_an_equals_sign_are_not_overrides() -> None:
    arguments = make_parser().parse_args(["a=1", "runs/lr=3/config.yaml", "--step=1"])
    assert (arguments.config, arguments.overrides) == ("runs/lr=3/config.yaml", ["a=1"])
    arguments = make_parser().parse_args(["lr=3.yaml", "--step=1"])
    assert (arguments.config, arguments.overrides) == ("lr=3.yaml", [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step=1"], "the following arguments are required: CONFIG.yaml\n"),
        (["CONFIG"], "the following arguments are required: --step"),
        (["CONFIG", "--step=1", "--dryrun"], "unrecognized arguments: --dryrun"),
        (["CONFIG", "--ste=1"], "the following arguments are required: --step"),
        (["CONFIG", "--step", "x"], "argument --step: invalid int value: 'x'"),
    ],
)
def test_wrong_arguments_end_with_a_message(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        make_parser().parse_args(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_plain_commands_take_options_in_any_position_too() -> None:
    parser = command.plain_parser("A test.")
    parser.add_argument("folder")
    parser.add_argument("sentences", nargs="+")
    parser.add_argument("--count", type=int, default=1)
    for words in (
        ["F", "a=b <mask>", "c", "--count=2"],
        ["F", "--count", "2", "a=b <mask>", "c"],
        ["--count", "2", "F", "a=b <mask>", "c"],
        ["F", "a=b <mask>", "--count", "2", "c"],
    ):
        arguments = parser.parse_args(words)
        assert (arguments.folder, arguments.sentences) == ("F", ["a=b <mask>", "c"])
        assert arguments.count == 2


def exit_code(error: Exception | None) -> int | str | None:
    def main() -> int | None:
        if error is not None:
            raise error
        return None

    with pytest.raises(SystemExit) as stop:
        command.run(main)
    return stop.value.code


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("the sky fell"), "error: the sky fell\n"),
        (UserError("http://me:hunter2@host is down"), "error: http://***@host is down\n"),
        (OSError(errno.ENOSPC, "full", "rows.tar"), "no space left while writing rows.tar"),
        (NotADirectoryError(errno.ENOTDIR, "no", "a/b"), "a/b: Not a directory: choose"),
        (OSError(errno.EFBIG, "no", "rows.tar"), "rows.tar: File too large: raise the limit"),
        (PermissionError(errno.EACCES, "no", "rows.tar"), f"rows.tar: {os.strerror(errno.EACCES)}"),
    ],
)
def test_an_error_that_the_user_can_fix_is_one_message(
    error: Exception,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert exit_code(error) == command.EXIT_USER_ERROR
    written = capsys.readouterr().err
    assert message in written
    assert "Traceback" not in written


def test_any_other_error_keeps_its_traceback() -> None:
    with pytest.raises(OSError, match="odd"):
        command.run(lambda: (_ for _ in ()).throw(OSError(errno.EIO, "odd")))
    with pytest.raises(ZeroDivisionError):
        command.run(lambda: 1 // 0)


def test_success_and_own_exit_codes_are_passed_on() -> None:
    assert exit_code(None) == 0
    with pytest.raises(SystemExit) as stop:
        command.run(lambda: 75)
    assert stop.value.code == 75


@pytest.mark.parametrize(("rank", "prefix"), [("0", "error"), ("3", "error (rank 3)")])
def test_the_message_names_the_rank(
    rank: str,
    prefix: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert exit_code(UserError("bad")) == command.EXIT_USER_ERROR
    assert capsys.readouterr().err == f"{prefix}: bad\n"


def limits_after_a_start() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    command.run(lambda: print(*resource.getrlimit(resource.RLIMIT_NOFILE)))


def test_the_limit_of_open_files_is_raised_at_the_start() -> None:
    done = ForkedProcess(limits_after_a_start).wait()
    soft, hard = (int(word) for word in done.stdout.split())
    assert soft == min(hard, command.MAX_OPEN_FILES) > 64


def open_too_many_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with contextlib.ExitStack() as files:
        command.run(lambda: open_files(files))


def open_files(files: contextlib.ExitStack) -> None:
    for _ in range(80):
        files.enter_context(open("/dev/null"))  # noqa: SIM115


def test_too_low_a_limit_of_open_files_is_named() -> None:
    done = ForkedProcess(open_too_many_files).wait()
    assert done.returncode == 2
    assert "the limit of this process is 64 open files (hard limit 64): raise it" in done.stderr
    assert "Traceback" not in done.stderr


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupt_has_no_traceback() -> None:
    done = ForkedProcess(lambda: command.run(interrupt)).wait()
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_reader_of_the_output_that_is_gone_gets_no_traceback() -> None:
    code = (
        "from configs import command\n"
        "command.run(lambda: [print('line ' * 20) for _ in range(10_000)] and None)\n"
    )
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{code}" | head -1; exit "${{PIPESTATUS[0]}}"'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == command.EXIT_BROKEN_PIPE
    assert done.stdout == "line " * 20 + "\n"
    assert done.stderr == ""
