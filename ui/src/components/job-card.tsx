/** One job: what it does, how far it is, why it waits, what went wrong, and what can be done. */

import { useState } from "preact/hooks";
import { problemOf } from "../api/problem";
import type { Job, Problem, Stage } from "../api/types";
import { count, expected, jobTitle } from "../format";
import { api } from "../session";
import { ErrorPanel } from "./error-panel";
import { JobLog } from "./job-log";
import { ProgressBar } from "./progress-bar";
import { StatusChip } from "./status-chip";

interface Properties {
  job: Job;
  selected: boolean;
  onSelect: () => void;
}

export function JobCard({ job, selected, onSelect }: Properties) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const act = async (action: (id: string) => Promise<void>): Promise<void> => {
    setBusy(true);
    setProblem(null);
    try {
      await action(job.id);
    } catch (error) {
      setProblem(problemOf(error));
    } finally {
      setBusy(false);
    }
  };
  const client = api.value;
  const draft = job.status === "DRAFT";
  const open = draft || job.status === "PENDING" || job.status === "RUNNING";
  const again = job.status === "FAILED" || job.status === "CANCELLED";
  return (
    <article
      class={selected ? "job selected" : "job"}
      data-testid="job-card"
      data-status={job.status}
      data-key={job.key}
      data-job-id={job.id}
      aria-current={selected ? "true" : undefined}
    >
      <header class="row">
        <h4>
          {jobTitle(job.type)} <span class="small muted">{job.key}</span>
        </h4>
        <StatusChip status={job.status} />
      </header>
      {job.status === "RUNNING" ? <Stages now={job.stage} /> : null}
      {job.status === "RUNNING" || job.status === "SUCCEEDED" ? (
        <ProgressBar
          testId="progress-bar"
          value={job.status === "SUCCEEDED" ? 1 : job.tiles_total === null ? null : job.progress}
          label={`Progress of ${job.key}`}
        />
      ) : null}
      <p class="small muted facts-line">{facts(job)}</p>
      {job.waiting_for ? (
        <p class="waiting-for" data-testid="waiting-for" data-kind={job.waiting_for.kind}>
          {job.waiting_for.detail}
          {job.waiting_for.estimated_start ? (
            <span class="muted" data-testid="estimated-start">
              {" "}
              Starts {expected(job.waiting_for.estimated_start, Date.now())}.
            </span>
          ) : null}
        </p>
      ) : null}
      {job.error ? (
        <p class={job.status === "FAILED" ? "job-error" : "note"} data-testid="job-error" data-code={job.error.code}>
          {job.error.detail}
        </p>
      ) : null}
      {problem ? <ErrorPanel problem={problem} onDismiss={() => setProblem(null)} /> : null}
      {job.attempt > 0 ? <JobLog job={job} /> : null}
      <footer class="row">
        {selected ? null : (
          <button type="button" class="quiet small" data-testid="select-job" onClick={onSelect}>
            Show on slide
          </button>
        )}
        <span class="spacer" />
        {draft ? (
          <button type="button" class="small" data-testid="start-job" disabled={busy} onClick={() => void act((id) => client.start(id))}>
            Start
          </button>
        ) : null}
        {open ? (
          <button type="button" class="quiet small" data-testid="cancel-job" disabled={busy} onClick={() => void act((id) => client.cancel(id))}>
            Cancel
          </button>
        ) : null}
        {again ? (
          <button type="button" class="small" data-testid="retry-job" disabled={busy} onClick={() => void act((id) => client.retry(id))}>
            Retry
          </button>
        ) : null}
      </footer>
    </article>
  );
}

function facts(job: Job): string {
  const parts: string[] = [];
  if (job.tiles_total !== null && job.tiles_total > 0) {
    const work = job.tiles_total - job.tiles_skipped;
    parts.push(`${count(job.tiles_processed)} of ${count(work)} tiles`);
    if (job.tiles_skipped) parts.push(`${count(job.tiles_skipped)} without tissue skipped`);
  }
  const counted = job.cells !== null && (job.status !== "RUNNING" || job.tiles_processed > 0);
  if (job.cells !== null && counted && job.type !== "TISSUE_MASK") parts.push(`${count(job.cells)} cells${job.status === "RUNNING" ? " so far" : ""}`);
  if (job.attempt > 1) parts.push(`attempt ${job.attempt}`);
  if (job.preemptions) parts.push("made way for another user and went on");
  return parts.join(", ");
}

const STAGES: readonly [Stage, string][] = [
  ["plan", "Plan"],
  ["infer", "Segment"],
  ["merge", "Join"],
];

function Stages({ now }: { now: Stage | null }) {
  const at = STAGES.findIndex(([stage]) => stage === now);
  return (
    <ol class="stages" aria-label="Stages">
      {STAGES.map(([stage, label], index) => (
        <li key={stage} class={index < at ? "past" : index === at ? "now" : ""} aria-current={index === at ? "step" : undefined}>
          {label}
        </li>
      ))}
    </ol>
  );
}
