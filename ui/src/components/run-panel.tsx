/** The jobs of one workflow, by branch, as they happen. */

import { useState } from "preact/hooks";
import { problemOf } from "../api/problem";
import type { Job, Problem, Workflow } from "../api/types";
import type { ConnectionState } from "../live/connection";
import { api } from "../session";
import { ErrorPanel } from "./error-panel";
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
      <Actions workflow={workflow} />
      {branches.map(([branch, jobs]) => (
        <section class="branch" key={branch} aria-label={`Branch ${branch}`} data-testid="branch" data-branch={branch}>
          {branches.length > 1 ? <h3>{branch}</h3> : null}
          <Policy workflow={workflow} branch={branch} />
          {jobs.map((job) => (
            <JobCard key={job.id} job={job} selected={job.id === selected} onSelect={() => onSelect(job)} />
          ))}
        </section>
      ))}
    </section>
  );
}

/** What can be done to all jobs of a run at once; of one job its card has it. */
function Actions({ workflow }: { workflow: Workflow }) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const client = api.value;
  const has = (...statuses: Job["status"][]): boolean => workflow.jobs.some((job) => statuses.includes(job.status));
  const act = async (action: (id: string) => Promise<void>): Promise<void> => {
    setBusy(true);
    setProblem(null);
    try {
      await action(workflow.id);
    } catch (error) {
      setProblem(problemOf(error));
    } finally {
      setBusy(false);
    }
  };
  const several = workflow.jobs.length > 1;
  if (!problem && !(several && has("DRAFT", "FAILED", "PENDING", "RUNNING"))) return null;
  return (
    <>
      <p class="row">
        {has("DRAFT") && several ? (
          <button type="button" class="small" data-testid="start-workflow" disabled={busy} onClick={() => void act(client.startWorkflow)}>
            Start all drafts
          </button>
        ) : null}
        {has("FAILED") && several ? (
          <button type="button" class="small" data-testid="retry-failed" disabled={busy} onClick={() => void act(client.retryFailed)}>
            Retry what failed
          </button>
        ) : null}
        {has("DRAFT", "PENDING", "RUNNING") && several ? (
          <button type="button" class="quiet small flush" data-testid="cancel-workflow" disabled={busy} onClick={() => void act(client.cancelWorkflow)}>
            Cancel all
          </button>
        ) : null}
      </p>
      {problem ? <ErrorPanel problem={problem} onDismiss={() => setProblem(null)} /> : null}
    </>
  );
}

const POLICIES = {
  skip: "If a job fails, the rest of this branch is skipped.",
  continue: "If a job fails, this branch goes on.",
} as const;

/** Halting is what everybody expects; anything else is said. */
function Policy({ workflow, branch }: { workflow: Workflow; branch: string }) {
  const policy = workflow.branches.find((one) => one.name === branch)?.policy;
  if (policy !== "skip" && policy !== "continue") return null;
  return (
    <p class="small muted" data-testid="branch-policy" data-policy={policy}>
      {POLICIES[policy]}
    </p>
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
