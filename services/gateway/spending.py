"""What a submission costs its user, asked for before it is recorded.

Promises: one token for one submission, however many jobs it has. Who asks knows that it is not recorded already.
Refuses: to give tokens back; a submission that is found wrong only later has cost as much work as a right one.
"""

from __future__ import annotations

from fastapi import Request

from services.gateway.admission import add_headers
from services.gateway.context import Gateway


async def spend(gateway: Gateway, request: Request, user: str, jobs: int) -> None:
    """Let a user add so many jobs, or not. Raises `RateLimited`, `TooManyJobs`."""
    allowance = await gateway.rate_limit.take(user, jobs)
    if allowance is not None:
        add_headers(request.scope, allowance.headers())
