import { describe, expect, test } from "vitest";
import type { Job, ProgressMessage, Workflow } from "../src/api/types";
import { comparePositions } from "../src/live/position";
import { answered, connected, EMPTY_RUN, receive, type LiveRun } from "../src/live/reducer";

function job(changes: Partial<Job> = {}): Job {
  return {
    id: "j1",
    workflow_id: "w1",
    key: "cells",
    type: "SEGMENT_CELLS",
    slide_id: "s1",
    branch: "main",
    depends_on: [],
    parameters: { mpp: null, assume_mpp: null, tile_size: null, halo: null, batch_size: null, model: null, stain: null, region: null, normalisation: null, tissue: null },
    draft: false,
    expected_tiles: 100,
    preemptions: 0,
    cause_job_id: null,
    artifacts_deleted_at: null,
    status: "RUNNING",
    attempt: 1,
    stage: "infer",
    tiles_total: 100,
    tiles_processed: 10,
    tiles_skipped: 20,
    cells: 50,
    progress: 0.125,
    waiting_for: null,
    error: null,
    created_at: "2026-01-01T00:00:00Z",
    started_at: null,
    finished_at: null,
    result: null,
    ...changes,
  };
}

function workflow(position: string, ...jobs: Job[]): Workflow {
  return {
    id: "w1",
    name: "",
    status: "RUNNING",
    percent_complete: 0,
    created_at: "2026-01-01T00:00:00Z",
    finished_at: null,
    position,
    branches: [],
    jobs,
  };
}

function progress(changes: Partial<ProgressMessage> = {}): ProgressMessage {
  return {
    kind: "progress",
    job_id: "j1",
    attempt: 1,
    stage: "infer",
    tiles_processed: 40,
    tiles_total: 100,
    tiles_skipped: 20,
    cells: 900,
    ...changes,
  };
}

function snapshot(run: LiveRun, ...values: Parameters<typeof workflow>): LiveRun {
  return receive(run, { kind: "snapshot", workflow: workflow(...values) });
}

const first = (run: LiveRun): Job => run.workflow?.jobs[0] as Job;

describe("positions", () => {
  test("are ordered by transaction, then by position, as numbers", () => {
    expect(comparePositions("9:100", "10:2")).toBe(-1);
    expect(comparePositions("10:3", "10:20")).toBe(-1);
    expect(comparePositions("18446744073709551615:1", "18446744073709551614:9")).toBe(1);
    expect(comparePositions("7:7", "7:7")).toBe(0);
  });
});

describe("live run", () => {
  test("progress of the current attempt counts work, not skipped tiles", () => {
    const run = receive(snapshot(EMPTY_RUN, "1:1", job()), progress());
    expect(first(run)).toMatchObject({ tiles_processed: 40, cells: 900, progress: 0.5 });
  });

  test("progress of another attempt, of a finished job, or from the past is ignored", () => {
    const running = snapshot(EMPTY_RUN, "1:1", job({ attempt: 2 }));
    expect(receive(running, progress({ attempt: 1 })).workflow).toEqual(running.workflow);
    expect(receive(running, progress({ attempt: 2, tiles_processed: 9 })).workflow).toEqual(running.workflow);
    const cancelled = snapshot(EMPTY_RUN, "1:1", job({ status: "CANCELLED" }));
    expect(receive(cancelled, progress()).workflow).toEqual(cancelled.workflow);
  });

  test("a lagging snapshot does not take progress back, a new attempt does", () => {
    const run = receive(snapshot(EMPTY_RUN, "1:1", job()), progress());
    expect(first(snapshot(run, "1:2", job())).tiles_processed).toBe(40);
    const restarted = job({ attempt: 2, tiles_processed: 0, tiles_total: null, cells: null, progress: 0 });
    expect(first(snapshot(run, "1:3", restarted))).toMatchObject({ tiles_processed: 0, progress: 0 });
  });

  test("an older snapshot is ignored, except as the first after a reconnect", () => {
    const run = snapshot(EMPTY_RUN, "5:9", job({ status: "SUCCEEDED" }));
    expect(snapshot(run, "5:8", job()).workflow).toBe(run.workflow);
    expect(first(snapshot(connected(run), "2:1", job())).status).toBe("RUNNING");
  });

  test("of an answer and a first snapshot the newer one is believed, in whatever order they come", () => {
    const done = job({ status: "SUCCEEDED" });
    const open = connected(EMPTY_RUN);
    expect(first(snapshot(answered(open, workflow("5:9", done)), "5:8", job())).status).toBe("SUCCEEDED");
    expect(first(answered(snapshot(open, "5:9", done), workflow("5:8", job()))).status).toBe("SUCCEEDED");
    expect(first(snapshot(answered(open, workflow("5:8", job())), "5:9", done)).status).toBe("SUCCEEDED");
  });

  test("a snapshot from before facts that were told takes none of them back", () => {
    const event = { kind: "event", position: "5:9", type: "JobSucceeded", job_id: "j1", at: "2026-01-01T00:00:00Z", data: {} } as const;
    const told = receive(snapshot(EMPTY_RUN, "5:7", job()), event);
    const behind = snapshot(told, "5:8", job());
    expect(behind.events).toEqual([event]);
    expect(first(snapshot(behind, "5:9", job({ status: "SUCCEEDED" }))).status).toBe("SUCCEEDED");
  });

  test("events are kept once, in the order of the log", () => {
    const event = (position: string) =>
      ({ kind: "event", position, type: "JobStarted", job_id: "j1", at: "2026-01-01T00:00:00Z", data: {} }) as const;
    const run = ["10:4", "9:3", "10:4"].reduce((now, at) => receive(now, event(at)), EMPTY_RUN);
    expect(run.events.map((one) => one.position)).toEqual(["9:3", "10:4"]);
  });
});
