"""Logs are JSON that a machine can read, whatever is put in."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider

from microtome.errors import ConfigurationError
from microtome.telemetry import logging as telemetry_logging


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.excepthook
    stream = io.StringIO()
    telemetry_logging.setup("tiler", "INFO", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook = hook
    logging.captureWarnings(False)


def test_a_record_is_one_line_with_its_fields_and_trace(output: io.StringIO) -> None:
    with TracerProvider().get_tracer("t").start_as_current_span("work") as span:
        logging.getLogger("a.b").info("read %d\ntiles", 7, extra={"job_id": "j1", "path": object(), "time": 3})
    logging.getLogger("a.b").debug("not shown")
    lines = output.getvalue().splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert line["message"] == "read 7\ntiles"
    assert (line["level"], line["service"], line["logger"], line["job_id"]) == ("info", "tiler", "a.b", "j1")
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert line["time"].endswith("Z")
    assert line["extra_time"] == 3
    assert line["path"].startswith("<object")


def test_an_exception_comes_with_its_stack(output: io.StringIO) -> None:
    try:
        raise ValueError("bad tile")
    except ValueError:
        logging.getLogger().exception("failed")
    line = json.loads(output.getvalue())
    assert "Traceback" in line["exception"]
    assert "ValueError: bad tile" in line["exception"]
    assert "trace_id" not in line


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="LOG_LEVEL"):
        telemetry_logging.setup("tiler", "LOUD")


def test_a_crash_is_logged_as_json() -> None:
    code = (
        "import warnings\n"
        "from microtome.telemetry import logging\n"
        "logging.setup('merger')\n"
        "warnings.warn('old')\n"
        "raise RuntimeError('boom')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": "libs"}, check=False
    )
    warning, crash = (json.loads(line) for line in ended.stdout.splitlines())
    assert ended.returncode == 1
    assert "old" in warning["message"]
    assert crash["level"] == "critical"
    assert "RuntimeError: boom" in crash["exception"]
