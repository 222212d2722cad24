"""Both encodings round-trip, and the direct JSON mapper says exactly what protobuf's own json_format says."""

from __future__ import annotations

import json
import math
import time
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.contracts import canonical, codec, messages
from microtome.contracts.compiled import Unusual
from microtome.contracts.messages import (
    ALL,
    DeadLetter,
    JobFailed,
    JobParameters,
    JobPlanned,
    JobResult,
    JobSpec,
    JobStarted,
    JobSucceeded,
    JobType,
    Message,
    Normalisation,
    SlideRegistered,
    TileRef,
    WorkflowSubmitted,
)
from microtome.contracts.schema import descriptor, is_time, pool, protobuf_class
from microtome.errors import InvalidRequest

SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: st.text(max_size=8),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
}
TIMES = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if is_time(field):
        return TIMES
    if field.message_type is not None:
        return instances(getattr(messages, field.message_type.name))
    if field.enum_type is not None:
        return st.sampled_from(list(getattr(messages, field.enum_type.name)))
    return SCALARS[field.type]


def instances(cls: type[Message]) -> st.SearchStrategy[Any]:
    chosen: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor(cls).fields:
        one = values(field)
        if field.is_repeated:
            one = st.lists(one, max_size=2).map(tuple)
        elif field.has_presence:
            one = st.none() | one
        chosen[field.name] = one
    return st.builds(cls, **chosen)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_encodings_round_trip_and_agree_with_json_format(cls: type[Message]) -> None:
    @settings(max_examples=25, deadline=None, database=None)
    @given(instances(cls))
    def check(message: Message) -> None:
        binary = codec.to_bytes(message)
        assert codec.from_bytes(cls, binary) == message
        ours = codec.to_json(message)
        theirs = json_format.MessageToDict(protobuf_class(cls).FromString(binary), descriptor_pool=pool())
        assert ours == theirs
        assert list(ours) == list(theirs)
        assert codec.from_json(cls, json.loads(json.dumps(ours))) == message
        back = json_format.ParseDict(ours, protobuf_class(cls)(), descriptor_pool=pool())
        assert back.SerializeToString(deterministic=True) == binary

    check()


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_dataclass_mirrors_its_descriptor(cls: type[Message]) -> None:
    assert [field.name for field in fields(cls)] == [field.name for field in descriptor(cls).fields]  # type: ignore[arg-type]
    assert codec.message_type(cls.__name__) is cls
    assert codec.type_name(cls()) == cls.__name__
    assert codec.to_bytes(cls()) == b""
    assert codec.to_json(cls()) == {}


def test_the_json_in_the_log_reads_like_this() -> None:
    event = WorkflowSubmitted(
        workflow_id="w",
        user_id="ada",
        jobs=(
            JobSpec(
                job_id="j",
                key="cells",
                type=JobType.SEGMENT_CELLS,
                depends_on=("i",),
                parameters=JobParameters(mpp=0.0),
            ),
        ),
    )
    assert codec.to_json(event) == {
        "workflowId": "w",
        "userId": "ada",
        "jobs": [
            {
                "jobId": "j",
                "key": "cells",
                "type": "JOB_TYPE_SEGMENT_CELLS",
                "dependsOn": ["i"],
                "parameters": {"mpp": 0.0},
            }
        ],
    }


def test_optional_fields_tell_absent_from_default() -> None:
    absent, zero = JobResult(), JobResult(cells=0)
    assert codec.from_bytes(JobResult, codec.to_bytes(zero)) == zero != absent
    assert codec.to_json(zero) == {"cells": "0"}
    assert codec.from_json(JobResult, {"cells": None}) == absent


def test_numbers_that_json_lacks_survive() -> None:
    norm = Normalisation(low=(math.nan, math.inf, -math.inf))
    data = codec.to_json(norm)
    assert data == {"low": ["NaN", "Infinity", "-Infinity"]}
    back = codec.from_json(Normalisation, data).low
    assert math.isnan(back[0])
    assert back[1:] == (math.inf, -math.inf)


def test_what_a_newer_process_wrote_can_be_read() -> None:
    data = {"jobId": "j", "attempt": 1, "colour": {"deep": [1]}}
    assert codec.from_json(JobStarted, data) == JobStarted(job_id="j", attempt=1)
    assert codec.from_json(JobSpec, {"type": "JOB_TYPE_OF_2030"}).type is JobType.UNSPECIFIED
    newer = codec.to_bytes(JobStarted(job_id="j")) + b"\xa2\x06\x03abc"  # field 100, bytes "abc"
    assert codec.from_bytes(JobStarted, newer) == JobStarted(job_id="j")
    assert codec.from_bytes(JobSpec, b"\x18\x63").type is JobType.UNSPECIFIED  # field 3 (type) = 99


@pytest.mark.parametrize(
    "data",
    [
        {"jobId": "j", "attempt": 2.0},
        {"job_id": "j", "attempt": "2"},
        {"jobId": "j", "attempt": 2, "slot": None},
    ],
)
def test_the_lenient_spellings_of_canonical_json_are_read(data: dict[str, Any]) -> None:
    theirs = json_format.ParseDict(data, protobuf_class(JobStarted)(), descriptor_pool=pool())
    read = codec.from_json(JobStarted, data)
    assert codec.to_bytes(read) == theirs.SerializeToString(deterministic=True)
    assert read == JobStarted(job_id="j", attempt=2)


def test_times_are_read_with_any_offset_and_given_in_utc() -> None:
    read = codec.from_json(JobFailed, {"retryAt": "2026-03-01T12:00:00.123456789+02:00"})
    assert read.retry_at == datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=UTC)
    east = timezone(timedelta(hours=2))
    same = replace(read, retry_at=datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=east))
    assert codec.to_json(same) == codec.to_json(read) == {"retryAt": "2026-03-01T10:00:00.123456Z"}
    assert codec.to_bytes(same) == codec.to_bytes(read)


@pytest.mark.parametrize(
    ("cls", "data", "field"),
    [
        (JobStarted, {"attempt": "two"}, "JobStarted.attempt"),
        (JobStarted, {"attempt": 2**31}, "JobStarted.attempt"),
        (JobStarted, {"attempt": 1.5}, "JobStarted.attempt"),
        (JobStarted, {"attempt": True}, "JobStarted.attempt"),
        (JobStarted, {"jobId": 7}, "JobStarted.job_id"),
        (JobFailed, {"transient": "yes"}, "JobFailed.transient"),
        (JobFailed, {"retryAt": "2026-03-01T12:00:00"}, "JobFailed.retry_at"),
        (JobFailed, {"retryAt": "tomorrow"}, "JobFailed.retry_at"),
        (SlideRegistered, {"mpp": "wide"}, "SlideRegistered.mpp"),
        (SlideRegistered, {"notes": "one"}, "SlideRegistered.notes"),
        (SlideRegistered, {"levels": [3]}, "SlideLevel"),
        (DeadLetter, {"payload": "?"}, "DeadLetter.payload"),
        (JobStarted, [], "JobStarted"),
    ],
)
def test_wrong_json_is_refused_and_the_field_named(cls: type[Message], data: Any, field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        codec.from_json(cls, data)


@pytest.mark.parametrize(
    "message",
    [
        JobStarted(attempt=2**31),
        JobStarted(job_id=7),  # type: ignore[arg-type]
        JobStarted(job_id="\ud800"),
        JobFailed(retry_at=datetime(2026, 3, 1)),  # noqa: DTZ001
        JobSucceeded(result=TileRef()),  # type: ignore[arg-type]
        JobPlanned(scale="wide"),  # type: ignore[arg-type]
    ],
    ids=lambda message: repr(message)[:60].encode("ascii", "backslashreplace").decode(),
)
def test_a_message_that_cannot_be_read_back_is_never_written(message: Message) -> None:
    with pytest.raises(InvalidRequest):
        codec.to_json(message)
    with pytest.raises(InvalidRequest):
        codec.to_bytes(message)


def test_broken_bytes_and_unknown_types_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no JobStarted"):
        codec.from_bytes(JobStarted, b"\xff\xff\xff")
    with pytest.raises(InvalidRequest, match="JobExploded"):
        codec.message_type("JobExploded")


def test_reading_json_is_fast_enough_to_fold_a_log() -> None:
    data = codec.to_json(JobFailed(job_id="j" * 36, attempt=2, code="x", detail="y", retry_at=datetime.now(UTC)))
    best = math.inf
    for _ in range(3):
        begun = time.perf_counter()
        for _ in range(2_000):
            codec.from_json(JobFailed, data)
        best = min(best, time.perf_counter() - begun)
    assert 2_000 / best > 20_000


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_the_compiled_way_and_the_general_way_are_one(cls: type[Message]) -> None:
    @settings(max_examples=15, deadline=None, database=None)
    @given(instances(cls))
    def check(message: Message) -> None:
        written = canonical._write_any(message)
        assert codec.to_json(message) == written
        stored = json.loads(json.dumps(written))
        assert codec.from_json(cls, stored) == canonical._read_any(cls, stored) == message

    check()


def test_what_is_usual_takes_the_compiled_way() -> None:
    started = JobStarted(job_id="a", attempt=2, slot=1)
    compiled = canonical._COMPILER
    assert compiled.reader(JobStarted)(compiled.writer(JobStarted)(started)) == started
    for unusual in ({"job_id": "a"}, {"jobId": None}, {"jobId": "ü"}, {"jobId": "a", "more": 1}, {"attempt": 2.0}):
        with pytest.raises(Unusual):
            compiled.reader(JobStarted)(unusual)
        codec.from_json(JobStarted, unusual)
    for wrong in (JobStarted(job_id=1), JobStarted(job_id=None), JobStarted(job_id="a", attempt=2**31)):  # type: ignore[arg-type]
        with pytest.raises(Unusual):
            compiled.writer(JobStarted)(wrong)
        with pytest.raises(InvalidRequest):
            codec.to_json(wrong)
