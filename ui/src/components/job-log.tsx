/** What the workers wrote about a job, fetched when somebody wants to read it. */

import { useEffect, useState } from "preact/hooks";
import { isAbort, problemOf } from "../api/problem";
import type { Job, LogLine, Problem } from "../api/types";
import { api } from "../session";
import { ErrorPanel } from "./error-panel";

export function JobLog({ job }: { job: Job }) {
  const [open, setOpen] = useState(false);
  return (
    <details class="small" data-testid="job-log" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>Log</summary>
      {open ? <Lines job={job} /> : null}
    </details>
  );
}

function Lines({ job }: { job: Job }) {
  const client = api.value;
  const [lines, setLines] = useState<readonly LogLine[] | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    const abort = new AbortController();
    client
      .logs(job.id, abort.signal)
      .then((page) => setLines(page.items))
      .catch((error: unknown) => isAbort(error) || setProblem(problemOf(error)));
    return () => abort.abort();
    // Whenever a stage or an attempt begins or ends there is something new to read.
  }, [client, job.id, job.status, job.attempt, job.stage]);
  if (problem) return <ErrorPanel problem={problem} onDismiss={() => setProblem(null)} />;
  if (!lines) return <p class="muted">Loading…</p>;
  if (!lines.length) return <p class="muted">Nothing was written yet.</p>;
  return (
    <ol class="log">
      {lines.map((line) => (
        <li key={line.id} data-level={line.level}>
          <time class="muted" dateTime={line.time}>
            {new Date(line.time).toLocaleTimeString()}
          </time>{" "}
          {line.message}
        </li>
      ))}
    </ol>
  );
}
