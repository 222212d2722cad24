/** The jobs of one workflow, by branch, as they happen. */

import type { Job, Workflow } from "../api/types";
import type { ConnectionState } from "../live/connection";
import { JobCard } from "./job-card";
import { StatusChip } from "./status-chip";

interface Properties {
  workflow: Workflow;
  connection: ConnectionState;
  selected: string | null;
  onSelect: (job: Job) => void;
}

export function RunPanel({ workflow, connection, selected, onSelect }: Properties) {
  const branches = [...Map.groupBy(workflow.jobs, (job) => job.branch)];
  return (
    <section class="run-panel" data-testid="workflow" data-status={workflow.status} data-workflow-id={workflow.id}>
      <header class="row">
        <h2>{workflow.name || "Workflow"}</h2>
        <Connection state={connection} />
      </header>
      <p class="row small muted">
        <StatusChip status={workflow.status} />
        <span data-testid="percent">{Math.round(workflow.percent_complete)} %</span>
      </p>
      {branches.map(([branch, jobs]) => (
        <section class="branch" key={branch} aria-label={`Branch ${branch}`} data-testid="branch" data-branch={branch}>
          {branches.length > 1 ? <h3>{branch}</h3> : null}
          {jobs.map((job) => (
            <JobCard key={job.id} job={job} selected={job.id === selected} onSelect={() => onSelect(job)} />
          ))}
        </section>
      ))}
    </section>
  );
}

const CONNECTIONS: Record<ConnectionState, string> = {
  connecting: "Connecting",
  live: "Live",
  retrying: "Reconnecting",
  closed: "Not connected",
};

function Connection({ state }: { state: ConnectionState }) {
  return (
    <span class={`connection ${state}`} role="status" data-testid="connection" data-state={state}>
      <i aria-hidden="true" />
      {CONNECTIONS[state]}
    </span>
  );
}
