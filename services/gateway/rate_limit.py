"""How fast and how much one user may submit.

Promises: a token bucket per user that all gateway processes share, kept by the database's clock in one atomic
statement, so that however many processes there are a user gets a burst and then so many per second, no more. What is
left is said with every answer, and when to come back with every refusal. Of unfinished jobs a user has about as many as
allowed: they are counted before they are recorded, so that requests at the same moment may together bring a few more.
Refuses: to know what a request would record; whoever asks for a token knows that it is not recorded already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from prometheus_client import Counter

from microtome.errors import MicrotomeError
from microtome.eventlog.database import Database

_POLICY = "submissions"
# A token is the time that one takes to come back ($2). The bucket has one as long as it would be full again within
# the time that a whole burst takes ($3); the row is locked before the clock is read.
_TAKE = """
with taken as (
    insert into rate_buckets as bucket (user_id, full_at)
    values ($1, clock_timestamp() + $2::interval)
    on conflict (user_id) do update
        set full_at = greatest(bucket.full_at, clock_timestamp()) + $2::interval
        where greatest(bucket.full_at, clock_timestamp()) + $2::interval <= clock_timestamp() + $3::interval
    returning full_at
)
select exists (select from taken) as granted,
       extract(epoch from coalesce((select full_at from taken), (select full_at from rate_buckets where user_id = $1))
                          - clock_timestamp())::float8 as full_in,
       (select count(*) from (
           select from jobs where user_id = $1 and status in ('DRAFT', 'PENDING', 'RUNNING') limit $4
       ) as jobs) as unfinished
"""
_PEEK = "select extract(epoch from full_at - clock_timestamp())::float8 from rate_buckets where user_id = $1"
_UNFINISHED = """
select count(*) from (
    select from jobs where user_id = $1 and status in ('DRAFT', 'PENDING', 'RUNNING') limit $2
) as unfinished
"""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a user may submit now."""

    burst: int
    remaining: int
    # Seconds until the bucket is full again, and until there is a token (0: there is one).
    full_in: float
    next_in: float
    refill_per_s: float

    def headers(self) -> dict[str, str]:
        """The allowance as headers: one by one as they have long been in use, and as the IETF's draft has them."""
        window = math.ceil(self.burst / self.refill_per_s)
        full_in = math.ceil(self.full_in)
        return {
            "RateLimit-Limit": str(self.burst),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(full_in),
            "RateLimit-Policy": f'"{_POLICY}";q={self.burst};w={window}',
            "RateLimit": f'"{_POLICY}";r={self.remaining};t={full_in}',
        }


class RateLimited(MicrotomeError):
    """You submit faster than this server lets one user; try again in a moment."""

    code: ClassVar[str] = "rate-limited"
    transient: ClassVar[bool] = True

    def __init__(self, detail: str, headers: Mapping[str, str]) -> None:
        super().__init__(detail)
        self.headers = headers


class TooManyJobs(MicrotomeError):
    """You have as many unfinished jobs as one user may have; wait until some are done, or cancel some."""

    code: ClassVar[str] = "too-many-jobs"
    transient: ClassVar[bool] = True

    def __init__(self, detail: str, headers: Mapping[str, str]) -> None:
        super().__init__(detail)
        self.headers = headers


class RateLimit:
    """Token buckets and the cap on unfinished jobs. Every method raises `Unavailable` without Postgres."""

    def __init__(
        self, database: Database, *, burst: int, refill_per_s: float, max_pending_jobs: int, refused: Counter
    ) -> None:
        """`burst` 0: no rate limit. `max_pending_jobs` 0: no cap."""
        self._database = database
        self._burst = burst
        self._refill_per_s = refill_per_s
        self._max_pending_jobs = max_pending_jobs
        self._refused = refused

    async def take(self, user_id: str, jobs: int = 1) -> Allowance | None:
        """Take one token for so many more jobs; what is left then, None without a limit.

        Raises `RateLimited`, `TooManyJobs`.
        """
        if self._burst == 0:
            if self._max_pending_jobs:
                self._check_room(await self._unfinished(user_id), jobs, {})
            return None
        token, burst = self._intervals()
        counted = self._max_pending_jobs and self._max_pending_jobs + 1
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_TAKE, user_id, token, burst, counted)
        assert row is not None
        allowance = self._allowance(row["full_in"])
        if not row["granted"]:
            self._refused.labels("rate").inc()
            wait = max(1, math.ceil(allowance.next_in))
            raise RateLimited(
                f"You may submit {self._burst} times at once and then {self._refill_per_s:g} times a second. "
                f"Try again in {wait} s.",
                {**allowance.headers(), "RateLimit-Remaining": "0", "Retry-After": str(wait)},
            )
        self._check_room(row["unfinished"], jobs, allowance.headers())
        return allowance

    async def peek(self, user_id: str) -> Allowance | None:
        """What a user may submit now; None without a limit."""
        if self._burst == 0:
            return None
        async with self._database.connection() as connection:
            full_in = await connection.fetchval(_PEEK, user_id)
        return self._allowance(full_in)

    async def _unfinished(self, user_id: str) -> int:
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_UNFINISHED, user_id, self._max_pending_jobs + 1))

    def _check_room(self, unfinished: int, jobs: int, headers: Mapping[str, str]) -> None:
        if self._max_pending_jobs and unfinished + jobs > self._max_pending_jobs:
            self._refused.labels("jobs").inc()
            raise TooManyJobs(
                f"You have {unfinished} unfinished jobs and may have {self._max_pending_jobs}; these would be {jobs} "
                "more. Wait until some are done, or cancel some.",
                {**headers, "Retry-After": "60"},
            )

    def _intervals(self) -> tuple[timedelta, timedelta]:
        token = timedelta(seconds=1 / self._refill_per_s)
        return token, self._burst * token

    def _allowance(self, full_in: float | None) -> Allowance:
        missing = max(0.0, full_in or 0.0) * self._refill_per_s
        # What the clock moved on between two looks at it is not a token.
        remaining = max(0, math.floor(self._burst - missing + 1e-6))
        next_in = 0.0 if remaining else (missing - self._burst + 1) / self._refill_per_s
        return Allowance(self._burst, remaining, missing / self._refill_per_s, next_in, self._refill_per_s)
