"""A job's log: what is written is read, several writers do not mix, and it stays small."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from microtome.joblog import LONGEST_FILE, JobLog


def test_lines_of_all_attempts_come_in_their_order(tmp_path: Path) -> None:
    tiler, merger = JobLog(tmp_path, "tiler"), JobLog(tmp_path, "merger")
    tiler.write("job", 10, "planned", tiles=7)
    tiler.write("job", 2, "lost", level="error", where=tmp_path)
    merger.write("job", 10, "written")
    tiler.write("other", 1, "begins")
    with (tmp_path / "logs" / "job" / "2.jsonl").open("ab") as file:
        file.write(b'{"time": "2026-')  # the writer was killed
    lines = list(merger.read("job"))
    assert [(line.attempt, line.content["service"], line.content["message"]) for line in lines] == [
        (2, "tiler", "lost"),
        (10, "tiler", "planned"),
        (10, "merger", "written"),
    ]
    assert lines[1].content["tiles"] == 7
    assert len(list(tiler.read("other"))) == 1


def test_writers_do_not_mix_and_the_file_says_that_it_is_full(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for count in range(200):
            JobLog(tmp_path, f"s{number}").write("job", 1, 900 * str(number), count=count)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    lines = [line.content for line in JobLog(tmp_path).read("job")]
    assert (tmp_path / "logs" / "job" / "1.jsonl").stat().st_size <= LONGEST_FILE
    assert len(lines) > 900
    assert "full" in lines[-1]["message"]
    for line in lines[:-8]:
        assert line["message"] == 900 * line["service"][1]


def test_a_line_that_cannot_be_written_fails_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        JobLog(tmp_path, "tiler").write("job", 1, "begins")
        JobLog(tmp_path, "tiler").write("../job", 1, "begins")
    assert caplog.text.count("is lost") == 2
