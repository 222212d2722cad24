/** One slide, its viewer, and a workflow that runs or ran on it. */

import { useEffect, useRef, useState } from "preact/hooks";
import { persist } from "../api/persist";
import { isAbort, problemOf } from "../api/problem";
import type { Job, Problem, Slide, Workflow } from "../api/types";
import { parseRoute, replaceRoute, type Route } from "../route";
import { api } from "../session";
import { drawn } from "../state/drawn";
import { workflows } from "../state/library";
import { connection, openRun, run, runProblem } from "../state/run";
import { ErrorPanel } from "./error-panel";
import { Events } from "./events";
import { ResultPanel } from "./result-panel";
import { RunList } from "./run-list";
import { RunPanel } from "./run-panel";
import { SlideFacts } from "./slide-facts";
import { SlideViewer } from "./slide-viewer";
import { StartPanel } from "./start-panel";

type Place = Extract<Route, { page: "slide" | "workflow" }>;

/** One component for a slide and for a run on it, so that the viewer stays open when a run starts. */
export function WorkspacePage({ at }: { at: Place }) {
  const client = api.value;
  const workflowId = at.page === "workflow" ? at.workflow : null;
  useEffect(() => (workflowId ? openRun(workflowId) : undefined), [client, workflowId]);
  const known = run.value.workflow;
  const workflow = known && known.id === workflowId ? known : null;
  const chosen = at.page === "workflow" ? at.job : null;
  const job = workflow ? (workflow.jobs.find((one) => one.id === chosen) ?? mostTelling(workflow)) : null;
  const wanted = at.page === "slide" ? at.slide : (job?.slide_id ?? null);
  // Until the run says which slide it is about, the last one stays.
  const last = useRef<string | null>(null);
  if (wanted) last.current = wanted;
  return <Workspace at={at} slideId={last.current} workflow={workflow} job={job} />;
}

export function JobPage({ job }: { job: string }) {
  const client = api.value;
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    const abort = new AbortController();
    persist(() => client.job(job, abort.signal), abort.signal, setProblem)
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
    persist(() => client.slide(id, abort.signal), abort.signal, setProblem)
      .then(setSlide)
      .catch((error: unknown) => isAbort(error) || setProblem(problemOf(error)));
    return () => abort.abort();
  }, [client, id]);
  return { slide: slide?.id === id ? slide : null, problem };
}

interface Properties {
  at: Place;
  slideId: string | null;
  workflow: Workflow | null;
  job: Job | null;
}

function Workspace({ at, slideId, workflow, job }: Properties) {
  const { slide, problem } = useSlide(slideId);
  const failed = at.page === "workflow" && !workflow ? runProblem.value : problem;
  const select = (chosen: Job): void => {
    if (!workflow) return;
    const now = parseRoute(location.hash);
    const view = now.page === "workflow" && chosen.slide_id === slideId ? now.view : null;
    replaceRoute({ page: "workflow", workflow: workflow.id, job: chosen.id, view });
  };
  const mpp = job?.parameters.mpp ?? slide?.mpp ?? job?.parameters.assume_mpp ?? null;
  return (
    <main class="workspace">
      {slide ? <SlideViewer key={slide.id} slide={slide} job={job} mpp={mpp} view={at.view} /> : <div class="viewer" />}
      <aside class="panel">
        {failed ? <ErrorPanel problem={failed} /> : null}
        {slide ? <SlideFacts slide={slide} /> : null}
        {workflow ? (
          <RunPanel workflow={workflow} connection={connection.value} selected={job?.id ?? null} onSelect={select} />
        ) : null}
        {job ? <ResultPanel job={job} slide={slide} /> : null}
        {slide && at.page === "slide" ? <StartPanel key={slide.id} slide={slide} /> : null}
        {workflow ? <Events events={run.value.events} /> : null}
        {slide && workflow ? (
          <details class="again" open={drawn.value?.slide === slide.id}>
            <summary>Start another run on this slide</summary>
            <StartPanel key={slide.id} slide={slide} />
          </details>
        ) : null}
        {slide ? <RunsOnSlide slide={slide.id} current={workflow?.id ?? null} /> : null}
      </aside>
    </main>
  );
}

function RunsOnSlide({ slide, current }: { slide: string; current: string | null }) {
  const runs = (workflows.value.value ?? []).filter((one) => one.jobs.some((job) => job.slide_id === slide));
  return (
    <section aria-labelledby="slide-runs">
      <h3 id="slide-runs">Runs on this slide</h3>
      <RunList runs={runs} current={current} empty="None yet." />
    </section>
  );
}
