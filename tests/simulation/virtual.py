"""An event loop without a clock: time jumps to the next timer, and whole processes can be stopped or killed.

Promises: no thread, no socket, no wait; the same program runs the same way every time. Callbacks run in the order in
which they were scheduled, timers in the order of their times.
Refuses: to idle. When nothing is left that could ever happen, it raises `Deadlock`.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

from microtome import clock

PROCESS: ContextVar[Process | None] = ContextVar("simulated process", default=None)


class Deadlock(RuntimeError):
    """Everybody waits, and nobody for a time."""


class Process:
    """One operating-system process: its tasks, and whether it runs, is stopped, or is dead."""

    def __init__(self, loop: VirtualLoop, name: str, its_clock: clock.Clock) -> None:
        self._loop = loop
        self.name = name
        self.alive = True
        self.stopped = False
        # Calls to the outside that it makes before it dies by itself; negative: never.
        self.fuse = -1
        self.tasks: list[asyncio.Task[Any]] = []
        self._held: list[asyncio.Handle] = []
        self._context = copy_context()
        self._context.run(PROCESS.set, self)
        self._context.run(clock._clock.set, its_clock)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        return self._loop.create_task(coroutine, name=name, context=self._context.copy())

    def run(self, function: Callable[[], Any]) -> Any:
        return self._context.run(function)

    def stop(self) -> None:
        """SIGSTOP: nothing of it goes on, while time does."""
        self.stopped = True

    def resume(self) -> None:
        """SIGCONT: all that it missed comes at once."""
        self.stopped = False
        held, self._held = self._held, []
        self._loop._ready.extend(held)

    def kill(self) -> None:
        """SIGKILL: what it does on the way out reaches nobody, for the outside refuses the dead."""
        self.alive = False
        self.resume()
        for task in self.tasks:
            task.cancel()

    def hold(self, handle: asyncio.Handle) -> None:
        self._held.append(handle)

    def born(self, task: asyncio.Task[Any]) -> None:
        if len(self.tasks) > 64:
            self.tasks = [task for task in self.tasks if not task.done()]
        self.tasks.append(task)


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks; jumps over the time in which there are none.

    Written for speed: what `BaseEventLoop` checks for the sake of threads and signals is left out.
    """

    _ready: Any
    _timer_cancelled_count: int

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self.steps = 0
        self.faults: list[str] = []
        self.set_task_factory(_factory)
        self.set_exception_handler(self._on_fault)

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]  # there are no threads: it is done when it is asked for
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        future.set_result(func(*args))
        return future

    def _on_fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _run_once(self) -> None:
        timers, ready = self._timers, self._ready
        if self._timer_cancelled_count > 100 and self._timer_cancelled_count * 2 > len(timers):
            self._timers = timers = [entry for entry in timers if not entry[2]._cancelled]
            heapq.heapify(timers)
            self._timer_cancelled_count = 0
        while timers and timers[0][2]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(timers)[2]._scheduled = False
        if not ready:
            if not timers:
                raise Deadlock
            self._now = max(self._now, timers[0][0])
            while timers and timers[0][0] <= self._now:
                timer = heapq.heappop(timers)[2]
                timer._scheduled = False
                ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is not None and process.stopped:
                process.hold(handle)
            else:
                self.steps += 1
                handle._run()


def _factory(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], context: Context | None = None
) -> asyncio.Task[Any]:
    task = asyncio.Task(coroutine, loop=loop, context=context)
    process = (context or copy_context()).get(PROCESS)
    if process is not None:
        process.born(task)
    return task


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, Any]]) -> tuple[Any, VirtualLoop]:
    """Run `main(loop)` to its end, then end whatever it left behind."""
    loop = VirtualLoop()
    asyncio.set_event_loop(None)
    try:
        return loop.run_until_complete(loop.create_task(main(loop))), loop
    finally:
        _end_all(loop)
        loop.close()


def _end_all(loop: VirtualLoop) -> None:
    """End what a run left behind, however it ended."""
    for _ in range(20):
        left = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
        if not left:
            return
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left, timeout=30))
    loop.faults.append(f"tasks that do not end: {left}")
