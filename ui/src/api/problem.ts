/** Errors of the interface as problems a person can act on. */

import type { FieldError, Problem } from "./types";

export class ApiError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
    this.name = "ApiError";
  }
}

const ADVICE: Record<string, string> = {
  "unknown-mpp": "Enter how many micrometres one pixel measures, or accept the stated assumption.",
  "unreadable-slide": "Export the slide again as SVS, NDPI, MRXS, SCN, DICOM or a tiled TIFF and check that the copy is complete.",
  "unsuitable-slide": "Use a brightfield (H&E) slide, or a model that was trained for this stain.",
  "too-large": "Crop the slide, or ask the operator to raise the upload limit.",
  "not-found": "Check the link. What another user owns is not visible to you.",
  conflict: "The page shows the current state again; try what it offers now.",
  busy: "Wait a moment and try again.",
  unavailable: "Part of the system is not answering. Nothing is lost; try again in a moment.",
  offline: "Check that the server runs and that you can reach it. The page keeps trying.",
  "invalid-user": "Choose another name at the top right.",
  "user-required": "Choose a name at the top right.",
  "unknown-model": "Choose a model that is installed.",
  "invalid-workflow": "Change what is named above and start again.",
  "invalid-request": "Change what is named above and send it again.",
};

const TITLES: Record<string, string> = {
  "unknown-mpp": "The pixel size is unknown",
  "unreadable-slide": "This slide cannot be read",
  "unsuitable-slide": "The model does not fit this slide",
  "unknown-model": "There is no such model",
  "too-large": "This is too large",
  "not-found": "Nothing here",
  conflict: "That is no longer possible",
  busy: "The server is busy",
  unavailable: "Part of the system does not answer",
  "invalid-workflow": "This workflow cannot run",
  "invalid-request": "The request cannot be understood",
  "invalid-user": "This name cannot be used",
  "user-required": "A user name is needed",
  internal: "Something went wrong on the server",
};

export function advice(problem: Problem): string {
  const known = ADVICE[problem.code];
  if (known) return known;
  if (problem.transient) return "This may pass; try again in a moment.";
  return "If it happens again, give the operator the code and the time.";
}

/** A title that says what is wrong; what the server sends may be no more than the name of a status. */
export function title(problem: Problem): string {
  return TITLES[problem.code] ?? problem.title;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

/** Reads a problem from a body; a body that is none becomes one that names the status. */
export function problemFromBody(status: number, statusText: string, body: string): Problem {
  let parsed: unknown = null;
  try {
    parsed = JSON.parse(body);
  } catch {
    parsed = null;
  }
  const from: Record<string, unknown> = isRecord(parsed) ? parsed : {};
  const text = (key: string, otherwise: string): string => {
    const value = from[key];
    return typeof value === "string" && value ? value : otherwise;
  };
  return {
    type: text("type", "about:blank"),
    title: text("title", statusText || `HTTP ${status}`),
    status,
    detail: text("detail", `The server answered with status ${status}.`),
    instance: text("instance", ""),
    code: text("code", status === 404 ? "not-found" : status === 413 ? "too-large" : `http-${status}`),
    transient: from["transient"] === true || status === 502 || status === 503 || status === 504,
    errors: Array.isArray(from["errors"]) ? (from["errors"] as FieldError[]) : [],
  };
}

export function offlineProblem(): Problem {
  return {
    type: "about:blank",
    title: "The server cannot be reached",
    status: 0,
    detail: "The connection failed before an answer came.",
    instance: "",
    code: "offline",
    transient: true,
  };
}

export function problemOf(error: unknown): Problem {
  if (error instanceof ApiError) return error.problem;
  return {
    type: "about:blank",
    title: "The page met an error",
    status: 0,
    detail: error instanceof Error ? error.message : String(error),
    instance: "",
    code: "page",
    transient: false,
  };
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
