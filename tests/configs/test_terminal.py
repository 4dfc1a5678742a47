"""What a file's name could do to a terminal is shown instead of done."""

import logging

import pytest

from configs import command, log
from configs.load import UserError
from configs.terminal import visible, visible_name

HOSTILE = "a\x1b]0;title\x07\x1b[2J\r\x9b31m\u202etxt.exe\u2066\x7f\udcff"
SHOWN = "a\\x1b]0;title\\x07\\x1b[2J\\x0d\\x9b31m\\u202etxt.exe\\u2066\\x7f\\udcff"


def test_control_characters_are_escaped() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible("\tone\nzwei \u00e4 \u4e2d \U0001f600") == "\tone\nzwei \u00e4 \u4e2d \U0001f600"
    assert visible_name("a\nERROR forged\tb") == "a\\x0aERROR forged\\x09b"


def test_log_lines_and_errors_hold_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure(rank=0)
    logging.getLogger("pipeline").warning("%s: damaged", HOSTILE)

    def fails() -> None:
        raise UserError(f"{HOSTILE}: no such file")

    with pytest.raises(SystemExit):
        command.run(fails)
    written = capsys.readouterr()
    assert f"{SHOWN}: damaged\n" in written.out
    assert f"{SHOWN}: no such file\n" in written.err
