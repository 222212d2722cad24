/**
 * The shapes of the REST interface and the websocket, as docs/architecture.md states them.
 * Everything else imports shapes from here and from nowhere else.
 */

export type Status = "PENDING" | "RUNNING" | "SUCCEEDED" | "FAILED" | "CANCELLED";
export type JobType = "TISSUE_MASK" | "SEGMENT_CELLS" | "INSTANSEG_WSI";
export type Stage = "queued" | "plan" | "infer" | "merge";
export type MppSource = "vendor" | "resolution_tag" | "user" | "assumed" | "unknown";

export interface SlideLevel {
  width: number;
  height: number;
  downsample: number;
}

export interface Slide {
  id: string;
  filename: string;
  size_bytes: number;
  sha256: string;
  vendor: string;
  width: number;
  height: number;
  /** Micrometres per level-0 pixel. */
  mpp: number | null;
  mpp_source: MppSource;
  objective_power: number | null;
  stain: "brightfield" | "fluorescence";
  levels: SlideLevel[];
  notes: string[];
  registered_at: string;
}

export interface JobParameters {
  mpp?: number | null;
  assume_mpp?: number | null;
  tile_size?: number | null;
  halo?: number | null;
  batch_size?: number | null;
  model?: string | null;
}

export interface Waiting {
  kind: "dependency" | "branch" | "seat" | "worker" | "retry" | "halted";
  job_id: string | null;
  position: number | null;
  until: string | null;
  detail: string;
}

export interface JobError {
  code: string;
  detail: string;
  transient: boolean;
}

export interface Artifact {
  name: string;
  media_type: string;
  size_bytes: number;
  sha256: string;
  url: string;
}

export interface JobResult {
  tiles_total: number;
  tiles_skipped: number;
  tiles_processed: number;
  tiles_cached: number;
  cells: number | null;
  tissue_mm2: number | null;
  cells_per_mm2: number | null;
  engine: string;
  model: string;
  stage_seconds: Record<string, number>;
  notes: string[];
  artifacts: Artifact[];
}

export interface Job {
  id: string;
  workflow_id: string;
  key: string;
  type: JobType;
  slide_id: string;
  branch: string;
  depends_on: string[];
  parameters: JobParameters;
  status: Status;
  attempt: number;
  stage: Stage | null;
  tiles_total: number | null;
  tiles_processed: number;
  tiles_skipped: number;
  cells: number | null;
  /** From 0 to 1. */
  progress: number;
  waiting_for: Waiting | null;
  error: JobError | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  result: JobResult | null;
}

export interface Workflow {
  id: string;
  name: string;
  status: Status;
  percent_complete: number;
  created_at: string;
  finished_at: string | null;
  /** The newest fact in this answer: "xid:position". */
  position: string;
  jobs: Job[];
}

export interface NewJob {
  key: string;
  type: JobType;
  slide_id: string;
  branch?: string;
  depends_on?: string[];
  parameters?: JobParameters;
}

export interface NewWorkflow {
  name: string;
  jobs: NewJob[];
}

export interface Limits {
  max_active_users: number;
  max_workers: number;
}

/** What `/status` says, as far as the page shows it. */
export interface SystemStatus {
  version: string;
  limits: Limits;
  active_users: string[];
  waiting_users: string[];
  engine: string | null;
  model: string | null;
}

/** Outlines in a rectangle: flat [x0, y0, x1, y1, …] in level-0 pixels. */
export interface CellOutlines {
  count: number;
  returned: number;
  sampled: boolean;
  outlines: number[][];
}

/** RFC 9457, with what the project adds. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  instance?: string | null;
  code: string;
  transient: boolean;
  errors?: FieldError[] | null;
}

export interface FieldError {
  field: string;
  detail: string;
}

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
