import type { Workflow } from "../api/types";
import { ago, count } from "../format";
import { formatRoute } from "../route";
import { ProgressBar } from "./progress-bar";
import { StatusChip } from "./status-chip";

interface Properties {
  runs: readonly Workflow[];
  current?: string | null;
  empty: string;
}

export function RunList({ runs, current, empty }: Properties) {
  if (!runs.length) return <p class="small muted">{empty}</p>;
  return (
    <ul class="runs">
      {runs.map((run) => (
        <li key={run.id}>
          <a
            href={formatRoute({ page: "workflow", workflow: run.id, job: null, view: null })}
            aria-current={run.id === current ? "page" : undefined}
            data-testid="run"
            data-status={run.status}
          >
            <span class="row">
              <span class="name">{run.name || "Workflow"}</span>
              <StatusChip status={run.status} />
            </span>
            <span class="small muted">{[cells(run), ago(run.created_at, Date.now())].filter(Boolean).join(", ")}</span>
            {run.status === "RUNNING" ? (
              <ProgressBar value={run.percent_complete / 100} label={`Progress of ${run.name}`} />
            ) : null}
          </a>
        </li>
      ))}
    </ul>
  );
}

function cells(run: Workflow): string | null {
  const found = run.jobs.map((job) => job.cells).filter((value): value is number => value !== null);
  // Nothing found yet is not the same as nothing found.
  if (run.status === "RUNNING" && !found.some((value) => value > 0)) return null;
  return found.length ? `${count(Math.max(...found))} cells` : null;
}
