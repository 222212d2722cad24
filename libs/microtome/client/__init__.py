"""A client of the REST API and the live websocket, for programs, tests and the demo.

Promises: what the server refuses is an `ApiProblem`, what does not answer is `Unavailable`.
Refuses: to know how the server works; it sees only the API.
"""

from __future__ import annotations

from microtome.client.api import ApiClient
from microtome.client.blocking import BlockingApiClient
from microtome.client.live import FINISHED, LiveMessage
from microtome.client.problem import ApiProblem, Problem
from microtome.client.shapes import Artifact, Job, JobIn, JobResult, Slide, Workflow

__all__ = [
    "FINISHED",
    "ApiClient",
    "ApiProblem",
    "Artifact",
    "BlockingApiClient",
    "Job",
    "JobIn",
    "JobResult",
    "LiveMessage",
    "Problem",
    "Slide",
    "Workflow",
]
