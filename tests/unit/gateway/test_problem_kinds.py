"""The list of problems says what the code does."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import services.gateway
from microtome.errors import MicrotomeError
from services.gateway.kinds import KINDS, OF_JOBS, page

ROOT = Path(__file__).resolve().parents[3]
# Of what never meets a request: the command line, the embedded stack, workers.
ELSEWHERE = {
    "already-running",
    "api-problem",
    "configuration",
    "download-failed",
    "engine-failed",
    "machine-failed",
    "model-mismatch",
    "no-room",
    "pixels-gone",
    "port-taken",
    "result-gone",
    "start-failed",
}


def all_errors(root: type[MicrotomeError] = MicrotomeError) -> set[type[MicrotomeError]]:
    return {root}.union(*(all_errors(child) for child in root.__subclasses__()))


def test_every_error_of_the_gateway_has_a_kind() -> None:
    for module in pkgutil.iter_modules(services.gateway.__path__, "services.gateway."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    of_gateway = {error for error in all_errors() if not error.__module__.startswith("tests.")}
    for error in of_gateway:
        if error.__module__.startswith("services.gateway."):
            assert error.code in KINDS, error
        if error.code in KINDS:
            assert error.transient is KINDS[error.code].transient, error
        else:
            assert error.code in ELSEWHERE or not error.__module__.startswith("microtome.errors"), error
    # What no class stands for is what HTTP itself and the unforeseen bring.
    assert set(KINDS) - {error.code for error in of_gateway} <= {"method-not-allowed"}


def test_what_a_job_fails_with_is_listed() -> None:
    codes = {error.code for error in all_errors() if error.__module__ == "microtome.errors"}
    assert set(OF_JOBS) <= codes


def test_the_page_is_current() -> None:
    written = (ROOT / "docs" / "problems.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m services.gateway.kinds > docs/problems.md"


def test_texts_fit_into_a_table() -> None:
    for code, kind in KINDS.items():
        assert 400 <= kind.status < 600
        for text in (kind.title, kind.meaning, kind.remedy):
            assert text, code
            assert "|" not in text
            assert "\n" not in text
