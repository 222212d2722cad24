"""The generated files are what the proto files say, and the contract may only grow."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from microtome.contracts import generate
from microtome.errors import ConfigurationError


@pytest.fixture
def proto(tmp_path: Path) -> Path:
    copy = tmp_path / "proto"
    shutil.copytree(generate.PROTO, copy)
    return copy


def rewrite(proto: Path, old: str, new: str) -> None:
    path = proto / "microtome" / "v1" / "events.proto"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_committed_files_are_fresh_and_break_nothing() -> None:
    assert generate.main(["--check", "--check-breaking"]) == 0


def test_a_changed_contract_makes_both_files_stale(proto: Path) -> None:
    rewrite(proto, "int32 slot = 3;", "int32 slot = 3;\n  string note = 4;")
    assert generate.stale_files(proto) == ["descriptors.binpb", "messages.py"]
    assert "note: str" in generate.compile_contract(proto)["messages.py"].decode()


def test_a_file_edited_by_hand_or_missing_is_stale(proto: Path, tmp_path: Path) -> None:
    generate.generate(proto, tmp_path)
    assert generate.stale_files(proto, tmp_path) == []
    messages = tmp_path / "messages.py"
    messages.write_text(messages.read_text() + "# mine\n")
    assert generate.stale_files(proto, tmp_path) == ["messages.py"]
    (tmp_path / "descriptors.binpb").unlink()
    assert generate.stale_files(proto, tmp_path) == ["descriptors.binpb", "messages.py"]


def test_a_new_field_breaks_nothing(proto: Path) -> None:
    rewrite(proto, "int32 slot = 3;", "int32 slot = 3;\n  string note = 4;")
    assert generate.breaking_changes(proto) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  int32 slot = 3;", ""),
        ("  int32 slot = 3;", "  string slot = 3;"),
        ("  int32 slot = 3;", "  int32 place = 3;"),
        ("message JobRetried", "message JobTriedAgain"),
    ],
)
def test_a_breaking_change_is_refused_until_it_is_accepted(proto: Path, old: str, new: str) -> None:
    rewrite(proto, old, new)
    assert generate.breaking_changes(proto)
    generate.accept(proto)
    assert generate.breaking_changes(proto) == []


def test_a_released_contract_is_needed(proto: Path) -> None:
    (proto / "released.binpb").unlink()
    with pytest.raises(ConfigurationError, match=r"released\.binpb is missing"):
        generate.breaking_changes(proto)


def test_what_the_dataclasses_cannot_say_is_an_error(proto: Path) -> None:
    rewrite(proto, "int32 slot = 3;", "oneof place { int32 slot = 3; }")
    with pytest.raises(ConfigurationError, match="oneof"):
        generate.compile_contract(proto)


def test_proto_that_does_not_compile_says_where(proto: Path) -> None:
    rewrite(proto, "int32 slot = 3;", "int23 slot = 3;")
    with pytest.raises(ConfigurationError, match="int23"):
        generate.compile_contract(proto)
