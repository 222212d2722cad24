"""Refusals become ApiProblem, whoever wrote them."""

from __future__ import annotations

import httpx
import pytest

from microtome.client.problem import ApiProblem, Problem, raise_for_problem


def test_a_problem_document_is_parsed() -> None:
    response = httpx.Response(
        422,
        json={
            "type": "urn:microtome:problem:unknown-mpp",
            "title": "Unknown mpp",
            "status": 422,
            "detail": "Give mpp.",
            "code": "unknown-mpp",
            "transient": True,
            "errors": [{"field": "mpp", "detail": "missing"}],
        },
    )
    with pytest.raises(ApiProblem) as refused:
        raise_for_problem(response)
    problem = refused.value.problem
    assert problem == Problem(422, "unknown-mpp", "Unknown mpp", "Give mpp.", True, (("mpp", "missing"),))
    assert refused.value.detail == "Give mpp. (unknown-mpp, status 422)\n  mpp: missing"


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b"[1]", b'{"message": "no"}'])
def test_an_answer_that_is_no_problem_document_is_one_all_the_same(body: bytes) -> None:
    problem = Problem.from_response(httpx.Response(502, content=body))
    assert (problem.status, problem.code) == (502, "http-502")
    assert problem.detail


def test_success_is_no_problem() -> None:
    raise_for_problem(httpx.Response(202))
