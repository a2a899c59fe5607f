from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest

from farm import logs


@contextmanager
def written(format: logs.Format, **always: object) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger of its own, and what it has written."""
    stream, logger = io.StringIO(), logging.Logger("farm.test", "INFO")
    logger.addHandler(logs.handler(format, stream, **always))
    yield logger, stream


def test_a_line_of_text_is_a_sentence_and_what_it_is_about() -> None:
    with (
        written("text", worker="cpu@alpha", device="cpu") as (log, stream),
        logs.about(run="r", job="r.000001", attempt=2, phase="measure"),
    ):
        log.info("the job %s ends", "r.000001", extra={"outcome": "ok", "duration_s": 1.23456})
    when, sentence = stream.getvalue().split(" INFO ", 1)
    assert datetime.fromisoformat(when.replace(",", "."))
    assert sentence == (
        "farm.test: the job r.000001 ends job=r.000001 attempt=2 phase=measure outcome=ok duration_s=1.235\n"
    )


def test_a_line_about_a_run_says_which() -> None:
    with written("text") as (log, stream), logs.about(run="r"):
        log.info("written")
    assert stream.getvalue().endswith(" farm.test: written run=r\n")


def test_a_line_about_nothing_has_no_fields() -> None:
    with written("text") as (log, stream):
        log.warning("well again")
    assert stream.getvalue().endswith(" WARNING farm.test: well again\n")


def test_a_line_of_json_has_all_fields() -> None:
    with (
        written("json", worker="cpu@alpha", device="cpu") as (log, stream),
        logs.about(run="r", job="r.000001", attempt=2),
    ):
        log.info("the job %s ends", "r.000001", extra={"outcome": "ok", "duration_s": 1.5})
    found = json.loads(stream.getvalue())
    assert datetime.fromisoformat(found.pop("ts")).utcoffset() is not None
    assert found == {
        "level": "INFO",
        "logger": "farm.test",
        "message": "the job r.000001 ends",
        "worker": "cpu@alpha",
        "device": "cpu",
        "run": "r",
        "job": "r.000001",
        "attempt": 2,
        "outcome": "ok",
        "duration_s": 1.5,
    }


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_others_wrote_cannot_look_like_a_line_of_ours(format: logs.Format) -> None:
    with written(format) as (log, stream):
        log.warning("it said: %s", "x\n2026-01-01 00:00:00,000 INFO farm: all is well\r\x1b[2J\u2028")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_a_field_with_spaces_is_quoted() -> None:
    with written("text") as (log, stream):
        log.info("ends", extra={"outcome": 'a "b" job=c'})
    assert stream.getvalue().endswith('outcome="a \\"b\\" job=c"\n')


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_exception_is_there_with_its_traceback(format: logs.Format) -> None:
    with written(format) as (log, stream):
        try:
            raise ValueError("no such thing")
        except ValueError:
            log.exception("it failed")
    text = json.loads(stream.getvalue())["exc_info"] if format == "json" else stream.getvalue()
    assert "Traceback" in text
    assert "ValueError: no such thing" in text


def test_fields_end_with_what_they_are_about() -> None:
    with logs.about(run="r"):
        with logs.about(job="r.1"):
            logs.note(attempt=3)
            assert logs.noted() == {"run": "r", "job": "r.1", "attempt": 3}
        assert logs.noted() == {"run": "r"}
    assert logs.noted() == {}


def test_fields_are_of_one_thread() -> None:
    seen: list[dict[str, object]] = []
    with logs.about(job="r.1"):
        other = threading.Thread(target=lambda: seen.append(logs.noted()))
        other.start()
        other.join()
    assert seen == [{}]


def test_a_calls_own_fields_come_first() -> None:
    with written("json", worker="cpu@alpha") as (log, stream), logs.about(worker="cpu@beta"):
        log.info("ends", extra={"worker": "cpu@gamma"})
        log.info("ends")
    assert [json.loads(line)["worker"] for line in stream.getvalue().splitlines()] == ["cpu@gamma", "cpu@beta"]
