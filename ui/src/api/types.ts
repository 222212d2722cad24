/**
 * The shapes of the interface. Those of REST are the gateway's own, by way of proto/openapi.json; those of
 * the websocket, which OpenAPI does not describe, are written here as docs/architecture.md states them.
 * Everything else imports shapes from here and from nowhere else.
 */

import type { components } from "./schema";

type Schemas = components["schemas"];

export type Slide = Schemas["Slide"];
export type Job = Schemas["Job"];
export type JobResult = Schemas["JobResult"];
export type Artifact = Schemas["Artifact"];
export type Workflow = Schemas["Workflow"];
export type NewWorkflow = Schemas["WorkflowIn"];
export type NewJob = Schemas["JobIn"];
export type JobParameters = Schemas["ParametersIn"];
/** What a slide was stained with. */
export type Stain = NonNullable<JobParameters["stain"]>;
export type SystemStatus = Schemas["Status"];
export type LogPage = Schemas["Log"];
export type LogLine = Schemas["LogLine"];
/** Outlines in a rectangle: flat [x0, y0, x1, y1, …] in level-0 pixels. */
export type CellOutlines = Schemas["Cells"];
/** RFC 9457, with what the project adds. */
export type Problem = Schemas["Problem"];
export type FieldError = Schemas["FieldProblem"];

export type Status = Job["status"];
export type JobType = Job["type"];
export type Stage = NonNullable<Job["stage"]>;
export type MppSource = Slide["mpp_source"];

export interface SnapshotMessage {
  kind: "snapshot";
  workflow: Workflow;
}

export interface EventMessage {
  kind: "event";
  position: string | null;
  type: string;
  job_id: string | null;
  at: string;
  data: Record<string, unknown>;
}

export interface ProgressMessage {
  kind: "progress";
  job_id: string;
  attempt: number;
  stage: Stage | null;
  tiles_processed: number;
  tiles_total: number | null;
  tiles_skipped: number;
  cells: number | null;
}

export type LiveMessage = SnapshotMessage | EventMessage | ProgressMessage;
