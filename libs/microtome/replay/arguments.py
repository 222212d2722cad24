"""The command line: what there is to say, and the help that teaches it.

Promises: every sub-command's help has examples that work as they stand. Refuses: to run anything.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from microtome.contracts.messages import Event
from microtome.errors import InvalidRequest
from microtome.replay.moment import NOW, Moment

# `make setup` puts it into .venv/bin; an installed package brings it too.
PROGRAM = "microtome-replay"
EVENT_TYPES: tuple[str, ...] = tuple(sorted(each.__name__ for each in get_args(Event)))

_MOMENTS = """
moments
  812:4711                an exact place: xid:position, as `tail` and the API print it
  4711                    a position alone
  2026-11-22T10:15        a time (UTC unless it names a zone)
  90s  10m  2h  3d        so long ago
  start  now              the beginning, the end
"""


def _text(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


def _paragraph(text: str) -> str:
    """Text as wide as the terminal, but not wider than is good to read."""
    return textwrap.fill(" ".join(text.split()), min(96, shutil.get_terminal_size().columns - 2))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def moment(text: str) -> Moment:
    """A moment on the command line."""
    try:
        return Moment.parse(text)
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(error.detail) from None


def event_type(text: str) -> str:
    """The name of an event type, in any case."""
    for name in EVENT_TYPES:
        if name.lower() == text.lower():
            return name
    raise argparse.ArgumentTypeError(f"{text!r} is no event type; there are {', '.join(EVENT_TYPES)}")


def count(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = _Parser(
        prog=PROGRAM,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_text(
            """
            Travel through the log of Microtome: what happened, why a job waited, what would have been otherwise.
            The log is the only truth of the system, so whatever is told here is a fold of it.
            """
        ),
        epilog=_text(
            f"""
            examples
              # watch everything as it happens
              {PROGRAM} tail --follow
              # why did this job take so long?
              {PROGRAM} timeline 3f2a
              # how did it stand ten minutes ago?
              {PROGRAM} show 'Monday cohort' --at 10m
              # would four more workers have helped?
              {PROGRAM} simulate --max-workers 8
              # do the tables say what the log says?
              {PROGRAM} verify
            """
        )
        + "\n\n"
        + _text(
            """
            which log
              --log FILE, else --database URL, else MICROTOME_DATABASE_URL, else the running stack of this checkout.
              Reading commands open the database so that the server itself refuses writes.

            exit status
              0 all well   1 the answer is no (verify found differences)   2 it could not be done

            `COMMAND --help` has more, with examples.
            """
        ),
    )
    commands = root.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for add in (_tail, _show, _timeline, _diff, _simulate, _verify, _rebuild, _export, _import, _rebase):
        add(commands)
    return root


_Commands = Any  # argparse keeps the class of its sub-commands to itself


def _command(
    commands: _Commands, name: str, help_: str, description: str, examples: Sequence[tuple[str, str]], notes: str = ""
) -> argparse.ArgumentParser:
    lines = "\n".join(f"  # {meaning}\n  {PROGRAM} {line}" for line, meaning in examples)
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_,
        description=_paragraph(description),
        epilog=f"examples\n{lines}\n{notes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return made


def _reads(command: argparse.ArgumentParser, *, json: str | None = "print JSON") -> None:
    source = command.add_mutually_exclusive_group()
    source.add_argument("--database", metavar="URL", help="postgresql://user:password@host:port/name")
    source.add_argument("--log", metavar="FILE", type=Path, help="a file that `export` wrote (- for standard input)")
    if json:
        command.add_argument("--json", action="store_true", help=json)


def _writes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--database", metavar="URL", help="postgresql://user:password@host:port/name")
    command.add_argument("--yes", "-y", action="store_true", help="do not ask")
    command.add_argument("--json", action="store_true", help="print JSON")


def _limits(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-workers", type=count, metavar="N", help="MAX_WORKERS of that time (default: as seen in the log)"
    )
    command.add_argument(
        "--max-active-users", type=count, metavar="N", help="MAX_ACTIVE_USERS of that time (default: as seen)"
    )


def _tail(commands: _Commands) -> None:
    command = _command(
        commands,
        "tail",
        "print events, the last ones or from a moment on",
        "Print events in the order of the log: when, where in the log, whose, what.",
        [
            ("tail", "the last 20 events"),
            ("tail --follow", "and then whatever comes, until Ctrl-C"),
            ("tail --from 10m --user ada", "what ada's jobs did in the last ten minutes"),
            ("tail --workflow 3f2a --from start", "the whole story of one workflow"),
            ("tail --type JobFailed --type JobAttemptLost -n 5", "the last five misfortunes"),
            ("tail --from 812:4711 --json | jq .data", "for programs: JSON, one event a line"),
        ],
        _MOMENTS,
    )
    command.add_argument("-f", "--follow", action="store_true", help="go on with what is appended, until Ctrl-C")
    command.add_argument("-n", "--lines", type=count, default=20, metavar="N", help="how many of the last (20)")
    command.add_argument("--from", dest="first", type=moment, metavar="MOMENT", help="from here on, instead of -n")
    command.add_argument("--to", dest="last", type=moment, default=NOW, metavar="MOMENT", help="up to here")
    command.add_argument("--workflow", metavar="W", help="only this one: id, beginning of the id, or name")
    command.add_argument("--job", metavar="J", help="only this one: id, beginning of the id, key, or workflow/key")
    command.add_argument("--user", action="append", metavar="U", help="only this user's; may be repeated")
    command.add_argument(
        "--type", action="append", type=event_type, metavar="T", help=f"only these; any of {', '.join(EVENT_TYPES)}"
    )
    _reads(command, json="print JSON, one event a line")


def _show(commands: _Commands) -> None:
    command = _command(
        commands,
        "show",
        "a workflow as it was: jobs, what each waited for, who had seats",
        "Show a workflow as of a moment: the status of each job, what it waited for, and who had the seats.",
        [
            ("show 3f2a", "as it is now"),
            ("show 'Monday cohort' --at 10m", "ten minutes ago"),
            ("show 3f2a --at 812:4711", "right after this event"),
            ("show 3f2a --at 2026-11-22T10:15 --json", "for programs"),
        ],
        _MOMENTS,
    )
    command.add_argument("workflow", metavar="WORKFLOW", help="id, beginning of the id, or name")
    command.add_argument("--at", type=moment, default=NOW, metavar="MOMENT", help="as of when (now)")
    _limits(command)
    _reads(command)


def _timeline(commands: _Commands) -> None:
    command = _command(
        commands,
        "timeline",
        "the life of a job: what it waited for, where it ran, what took how long",
        """
        Draw the life of a job: each phase of waiting with its reason, each attempt with its slot and workers, and the
        stages of the attempt that succeeded.
        """,
        [
            ("timeline 3f2a", "by the beginning of its id"),
            ("timeline 'Monday cohort/slide-7'", "by workflow and key"),
            ("timeline 3f2a --at 10m", "as it looked ten minutes ago"),
            ("timeline 3f2a --json | jq .waited_seconds", "seconds by what was waited for"),
        ],
        _MOMENTS,
    )
    command.add_argument("job", metavar="JOB", help="id, beginning of the id, key, or workflow/key")
    command.add_argument("--at", type=moment, default=NOW, metavar="MOMENT", help="up to when (now)")
    _limits(command)
    _reads(command)


def _diff(commands: _Commands) -> None:
    command = _command(
        commands,
        "diff",
        "what changed between two moments",
        "Say what changed between two moments: jobs, workflows, seats, the line for seats.",
        [
            ("diff 10m now", "the last ten minutes"),
            ("diff 812:4711 840:4790", "between two events"),
            ("diff 2026-11-22T09:00 2026-11-22T10:00", "one hour (UTC)"),
            ("diff start now --json", "everything there is"),
        ],
        _MOMENTS,
    )
    command.add_argument("one", metavar="MOMENT", type=moment, help="the first moment")
    command.add_argument("other", metavar="MOMENT", type=moment, help="the second moment")
    _reads(command)


def _simulate(commands: _Commands) -> None:
    command = _command(
        commands,
        "simulate",
        "what if: the same work under other limits or policies",
        """
        Take what users asked for (submissions, cancels, retries) and how long each job took out of the log, run it
        through the scheduler's own rules under other limits, and compare how long jobs waited.
        """,
        [
            ("simulate", "calibration: the rules under the recorded limits"),
            ("simulate --max-workers 8", "would more workers have helped?"),
            ("simulate --max-active-users 5 --seat-tenure 600", "would other seats have been fairer?"),
            ("simulate --policy all=skip", "had failed branches been skipped"),
            ("simulate --log monday.jsonl --max-workers 2 --svg b.svg", "from an exported log, with a picture"),
        ],
        """
the recording
  Its limits are those in the environment (MAX_WORKERS, MAX_ACTIVE_USERS, SEAT_TENURE, SLICE_SECONDS), else
  what was in use. A job takes as long as it took; faults are not repeated.
""",
    )
    command.add_argument("--max-workers", type=count, metavar="N", help="worker slots (default: as recorded)")
    command.add_argument("--max-active-users", type=count, metavar="N", help="seats (default: as recorded)")
    command.add_argument(
        "--seat-tenure", type=_seconds, metavar="SECONDS", help="how long a seat is kept while others wait; 0: for ever"
    )
    command.add_argument(
        "--slice-seconds",
        type=_seconds,
        metavar="SECONDS",
        help="how long a job keeps its slot while another user has none",
    )
    command.add_argument(
        "--policy", action="append", type=_policy, default=[], metavar="BRANCH=POLICY",
        help="halt, skip or continue for a branch of this name, or for `all`; may be repeated",
    )  # fmt: skip
    command.add_argument("--to", dest="last", type=moment, default=NOW, metavar="MOMENT", help="the log up to here")
    command.add_argument("--svg", type=Path, metavar="FILE", help="write the chart as SVG")
    command.add_argument("--png", type=Path, metavar="FILE", help="write the chart as PNG")
    _reads(command)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _policy(text: str) -> tuple[str, str]:
    branch, equals, policy = text.rpartition("=")
    if not equals or not branch or policy.lower() not in ("halt", "skip", "continue"):
        raise argparse.ArgumentTypeError(f"{text!r} is not BRANCH=halt, BRANCH=skip or BRANCH=continue")
    return branch, policy.lower()


def _verify(commands: _Commands) -> None:
    command = _command(
        commands,
        "verify",
        "do the tables say what the log says? exit status 1 if not",
        """
        Replay the whole log beside the live tables (slides, workflows, jobs, seats) and compare them row by row.
        Nothing waits for it: it takes no lock, and compares in a transaction that writes nothing.
        """,
        [
            ("verify", "exit status 0: they agree; 1: they do not"),
            ("verify --json | jq '.differences[].table'", "which tables differ"),
        ],
    )
    command.add_argument("--database", metavar="URL", help="postgresql://user:password@host:port/name")
    command.add_argument("--json", action="store_true", help="print JSON")


def _rebuild(commands: _Commands) -> None:
    command = _command(
        commands,
        "rebuild",
        "make the tables anew from the log",
        """
        Replace the tables that are folds of the log by a fresh replay, in one transaction. The log itself is never
        touched. Appends wait only while the last events are replayed. Asks first.
        """,
        [("rebuild", "asks, then does it"), ("rebuild --yes", "in a script")],
    )
    _writes(command)


def _export(commands: _Commands) -> None:
    command = _command(
        commands,
        "export",
        "write the log as JSON lines",
        "Write the whole log to a file, one event a line, in the order of the log.",
        [
            ("export monday.jsonl", "into a file"),
            ("export - | gzip > monday.jsonl.gz", "into a pipe"),
        ],
    )
    command.add_argument("file", metavar="FILE", type=Path, help="where to; - is standard output")
    command.add_argument("--database", metavar="URL", help="postgresql://user:password@host:port/name")


def _import(commands: _Commands) -> None:
    command = _command(
        commands,
        "import",
        "read an exported log into a database",
        """
        Read an exported log into a database that holds none, and make its tables from it. Ids, times and order stay;
        positions are new. Tables are created where there are none. Asks first.
        """,
        [
            ("import monday.jsonl --database postgresql://…/copy", "into a database of its own"),
            ("import - --yes < monday.jsonl", "from a pipe"),
        ],
    )
    command.add_argument("file", metavar="FILE", type=Path, help="where from; - is standard input")
    _writes(command)


def _rebase(commands: _Commands) -> None:
    command = _command(
        commands,
        "rebase",
        "after a dump was restored into another cluster",
        """
        Make a log readable in a cluster that it was not written in. A dump carries the transaction ids of the cluster
        that it came from; where those are ahead of this cluster's, readers do not see the newest events until it has
        caught up. Run this once after the restore, before any service starts. Asks first.
        """,
        [
            ("rebase --database postgresql://…/restored", "asks, then does it"),
            ("rebase --yes", "in a script"),
        ],
    )
    _writes(command)
