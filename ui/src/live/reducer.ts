/**
 * What the page knows of one workflow, folded from live messages. Pure.
 * Snapshots are facts and win; progress is a hint and counts only for the attempt that runs now.
 */

import type { EventMessage, Job, LiveMessage, ProgressMessage, Workflow } from "../api/types";
import { comparePositions } from "./position";

export interface LiveRun {
  workflow: Workflow | null;
  /** Newest last. */
  events: readonly EventMessage[];
  /** True until the first snapshot after a (re)connect: that one is believed even if it looks older. */
  resync: boolean;
}

export const EMPTY_RUN: LiveRun = { workflow: null, events: [], resync: true };
const EVENTS_KEPT = 200;

export function connected(run: LiveRun): LiveRun {
  return { ...run, resync: true };
}

/**
 * What was asked for beside the live view. Whichever of the two comes second, the older one is not believed: both are
 * of the log that is connected to now, and what came between them follows.
 */
export function answered(run: LiveRun, workflow: Workflow): LiveRun {
  return withSnapshot({ ...run, resync: false }, workflow);
}

export function receive(run: LiveRun, message: LiveMessage): LiveRun {
  switch (message.kind) {
    case "snapshot":
      return withSnapshot(run, message.workflow);
    case "event":
      return withEvent(run, message);
    case "progress":
      return run.workflow ? { ...run, workflow: withProgress(run.workflow, message) } : run;
  }
}

function withSnapshot(run: LiveRun, workflow: Workflow): LiveRun {
  const known = run.workflow;
  if (known && !run.resync && comparePositions(workflow.position, known.position) < 0) return run;
  const jobs = workflow.jobs.map((job) => keepProgress(job, known?.jobs.find((other) => other.id === job.id)));
  return { ...run, workflow: { ...workflow, jobs }, resync: false };
}

/** A snapshot's counters may lag behind progress already shown; within one attempt they never go back. */
function keepProgress(job: Job, known: Job | undefined): Job {
  const same = known && known.attempt === job.attempt && job.status === "RUNNING" && known.status === "RUNNING";
  if (!same || known.tiles_processed <= job.tiles_processed) return job;
  return {
    ...job,
    tiles_processed: known.tiles_processed,
    tiles_skipped: known.tiles_skipped,
    tiles_total: known.tiles_total,
    cells: known.cells,
    progress: Math.max(known.progress, job.progress),
  };
}

function withEvent(run: LiveRun, event: EventMessage): LiveRun {
  const same = (other: EventMessage): boolean =>
    other.position === event.position && other.type === event.type && other.job_id === event.job_id;
  if (run.events.some(same)) return run;
  // An event whose place is not told stays where it arrived.
  const order = (a: EventMessage, b: EventMessage): number =>
    a.position && b.position ? comparePositions(a.position, b.position) : 0;
  const events = [...run.events, event].sort(order);
  return { ...run, events: events.slice(-EVENTS_KEPT) };
}

function withProgress(workflow: Workflow, message: ProgressMessage): Workflow {
  return {
    ...workflow,
    jobs: workflow.jobs.map((job) => {
      const current = job.id === message.job_id && job.attempt === message.attempt && job.status === "RUNNING";
      if (!current || message.tiles_processed < job.tiles_processed) return job;
      const updated = {
        ...job,
        stage: message.stage || job.stage,
        tiles_processed: message.tiles_processed,
        tiles_total: message.tiles_total || job.tiles_total,
        tiles_skipped: message.tiles_skipped,
        cells: message.cells ?? job.cells,
      };
      return { ...updated, progress: Math.max(job.progress, tileProgress(updated)) };
    }),
  };
}

/** Share of the tiles that need work; 1 is left to the fact that the job succeeded. */
function tileProgress(job: Job): number {
  const work = (job.tiles_total ?? 0) - job.tiles_skipped;
  return work > 0 ? Math.min(0.99, job.tiles_processed / work) : 0;
}
