/** One slide, its viewer, and a workflow that runs or ran on it. */

import { useEffect, useState } from "preact/hooks";
import { isAbort, problemOf } from "../api/problem";
import type { Job, Problem, Slide, Workflow } from "../api/types";
import { parseRoute, replaceRoute } from "../route";
import { api } from "../session";
import { workflows } from "../state/library";
import { connection, openRun, run, runProblem } from "../state/run";
import { ErrorPanel } from "./error-panel";
import { ResultPanel } from "./result-panel";
import { RunList } from "./run-list";
import { RunPanel } from "./run-panel";
import { SlideFacts } from "./slide-facts";
import { SlideViewer } from "./slide-viewer";
import { StartPanel } from "./start-panel";

export function SlidePage({ slide }: { slide: string }) {
  return <Workspace slideId={slide} workflow={null} job={null} />;
}

export function WorkflowPage({ workflow, job }: { workflow: string; job: string | null }) {
  const client = api.value;
  useEffect(() => openRun(workflow), [client, workflow]);
  const now = run.value.workflow;
  const problem = runProblem.value;
  if (!now || now.id !== workflow) {
    return <main class="centered">{problem ? <ErrorPanel problem={problem} /> : <p class="empty">Loading…</p>}</main>;
  }
  const shown = now.jobs.find((one) => one.id === job) ?? mostTelling(now);
  return <Workspace slideId={shown?.slide_id ?? null} workflow={now} job={shown} />;
}

export function JobPage({ job }: { job: string }) {
  const client = api.value;
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    const abort = new AbortController();
    client
      .job(job, abort.signal)
      .then((found) => replaceRoute({ page: "workflow", workflow: found.workflow_id, job, view: null }))
      .catch((error: unknown) => isAbort(error) || setProblem(problemOf(error)));
    return () => abort.abort();
  }, [client, job]);
  return <main class="centered">{problem ? <ErrorPanel problem={problem} /> : <p class="empty">Loading…</p>}</main>;
}

/** Until the user chooses: the last job with cells, else the last with any result, else the last. */
function mostTelling(workflow: Workflow): Job | null {
  const { jobs } = workflow;
  return jobs.findLast((job) => job.result?.cells != null) ?? jobs.findLast((job) => job.result) ?? jobs.at(-1) ?? null;
}

function useSlide(id: string | null): { slide: Slide | null; problem: Problem | null } {
  const client = api.value;
  const [slide, setSlide] = useState<Slide | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    if (!id) return;
    const abort = new AbortController();
    setProblem(null);
    client
      .slide(id, abort.signal)
      .then(setSlide)
      .catch((error: unknown) => isAbort(error) || setProblem(problemOf(error)));
    return () => abort.abort();
  }, [client, id]);
  return { slide: slide?.id === id ? slide : null, problem };
}

interface Properties {
  slideId: string | null;
  workflow: Workflow | null;
  job: Job | null;
}

function Workspace({ slideId, workflow, job }: Properties) {
  const { slide, problem } = useSlide(slideId);
  const select = (chosen: Job): void => {
    if (!workflow) return;
    const now = parseRoute(location.hash);
    const view = now.page === "workflow" && chosen.slide_id === slideId ? now.view : null;
    replaceRoute({ page: "workflow", workflow: workflow.id, job: chosen.id, view });
  };
  const runs = (workflows.value.value ?? []).filter((one) => one.jobs.some((other) => other.slide_id === slideId));
  return (
    <main class="workspace">
      {slide ? (
        <SlideViewer slide={slide} job={job} mpp={slide.mpp ?? job?.parameters.mpp ?? job?.parameters.assume_mpp ?? null} />
      ) : (
        <div class="viewer blank">{problem ? <ErrorPanel problem={problem} /> : null}</div>
      )}
      <aside class="panel">
        {slide ? <SlideFacts slide={slide} /> : null}
        {workflow ? (
          <RunPanel
            workflow={workflow}
            events={run.value.events}
            connection={connection.value}
            selected={job?.id ?? null}
            onSelect={select}
          />
        ) : null}
        {job ? <ResultPanel job={job} slide={slide} /> : null}
        {slide && !workflow ? <StartPanel slide={slide} /> : null}
        {slide && workflow ? (
          <details class="again">
            <summary>Start another run on this slide</summary>
            <StartPanel slide={slide} />
          </details>
        ) : null}
        <section aria-labelledby="slide-runs">
          <h3 id="slide-runs">Runs on this slide</h3>
          <RunList runs={runs} current={workflow?.id ?? null} empty="None yet." />
        </section>
      </aside>
    </main>
  );
}
