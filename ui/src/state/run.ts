/** One workflow, live. */

import { signal } from "@preact/signals";
import { liveUrl, paths } from "../api/client";
import { problemOf } from "../api/problem";
import type { LiveMessage, Problem } from "../api/types";
import { LiveConnection, type ConnectionState } from "../live/connection";
import { answered, connected, EMPTY_RUN, receive, type LiveRun } from "../live/reducer";
import { api } from "../session";

export const run = signal<LiveRun>(EMPTY_RUN);
export const connection = signal<ConnectionState>("closed");
export const runProblem = signal<Problem | null>(null);

let connectionNow: LiveConnection<LiveMessage> | null = null;

export function openRun(workflow: string): () => void {
  run.value = EMPTY_RUN;
  runProblem.value = null;
  const user = api.peek();
  let open = true;
  void user
    .workflow(workflow)
    .then((found) => {
      if (open) run.value = answered(run.value, found);
    })
    .catch((error: unknown) => {
      if (!open || run.value.workflow) return;
      runProblem.value = problemOf(error);
      // Asking for what is not there again would never end; anything else may pass.
      if (runProblem.value.status === 404) live.stop();
    });
  const live = new LiveConnection<LiveMessage>(liveUrl(paths.liveWorkflow(workflow), user.user), {
    onOpen: () => {
      run.value = connected(run.value);
    },
    onMessage: (message) => {
      if (!open) return;
      run.value = receive(run.value, message);
      if (message.kind === "snapshot") runProblem.value = null;
    },
    onState: (state) => {
      if (connectionNow === live || state !== "closed") connection.value = state;
    },
  });
  connectionNow = live;
  live.start();
  return () => {
    open = false;
    live.stop();
  };
}
