"""Log lines: one line a message, with time, rank and level."""

import logging
import re

import pytest

from configs import log

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def test_a_message_is_one_line_with_time_rank_and_level(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure(rank=0)
    logging.getLogger("pipeline.run.plan").info("step %d of %d", 3, 10)
    logging.getLogger("pipeline").debug("not shown")
    logging.getLogger("somebody.else").warning("not ours")
    assert re.fullmatch(rf"{TIME} rank 0 INFO step 3 of 10\n", capsys.readouterr().out)


def test_without_a_launch_there_is_no_rank(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    log.configure()
    logging.getLogger("data_prep").warning("100%% of %s\nand more", "x")
    assert re.fullmatch(rf"{TIME} WARNING 100% of x\n  and more\n", capsys.readouterr().out)


def test_other_ranks_log_warnings_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    log.configure()
    logging.getLogger("pipeline").info("what rank 0 logs too")
    logging.getLogger("pipeline").warning("something of this rank")
    written = capsys.readouterr().out
    assert re.fullmatch(rf"{TIME} rank 3 WARNING something of this rank\n", written)


def test_configuring_again_replaces_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(rank=1)
    log.configure(rank=0)
    logging.getLogger("__main__").info("once")
    assert capsys.readouterr().out.count("once") == 1
