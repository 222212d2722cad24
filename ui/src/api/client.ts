/** The REST interface, for one user. Every failure is an ApiError with a problem. */

import { ApiError, isAbort, offlineProblem, problemFromBody } from "./problem";
import type { CellOutlines, Job, LogPage, NewWorkflow, Slide, SystemStatus, Workflow } from "./types";

const ROOT = "api/v1";

export interface Rectangle {
  x0: number;
  y0: number;
  x1: number;
  y1: number;
}

export function apiUrl(path: string): string {
  return new URL(`${ROOT}/${path}`, document.baseURI).href;
}

export function liveUrl(path: string, user: string): string {
  const url = new URL(`${ROOT}/${path}`, document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("user", user);
  return url.href;
}

/** A random key without crypto.randomUUID, which plain http on a LAN does not offer. */
function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function id(value: string): string {
  return encodeURIComponent(value);
}

export class Api {
  constructor(readonly user: string) {}

  headers(): Record<string, string> {
    return this.user ? { "X-User-ID": this.user } : {};
  }

  status = (signal?: AbortSignal): Promise<SystemStatus> => this.json("status", signal);

  slides = (signal?: AbortSignal): Promise<Slide[]> => this.page("slides", signal);

  slide = (slide: string, signal?: AbortSignal): Promise<Slide> => this.json(`slides/${id(slide)}`, signal);

  workflows = (signal?: AbortSignal): Promise<Workflow[]> => this.page("workflows", signal);

  workflow = (workflow: string, signal?: AbortSignal): Promise<Workflow> =>
    this.json(`workflows/${id(workflow)}`, signal);

  job = (job: string, signal?: AbortSignal): Promise<Job> => this.json(`jobs/${id(job)}`, signal);

  cells = (job: string, box: Rectangle, signal?: AbortSignal): Promise<CellOutlines> =>
    this.json(`jobs/${id(job)}/cells?bbox=${box.x0},${box.y0},${box.x1},${box.y1}`, signal);

  async submit(workflow: NewWorkflow): Promise<Workflow> {
    const response = await this.send("workflows", {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": randomKey() },
      body: JSON.stringify(workflow),
    });
    return (await response.json()) as Workflow;
  }

  start = (job: string): Promise<void> => this.tell(`jobs/${id(job)}/start`);

  cancel = (job: string): Promise<void> => this.tell(`jobs/${id(job)}/cancel`);

  retry = (job: string): Promise<void> => this.tell(`jobs/${id(job)}/retry`);

  startWorkflow = (workflow: string): Promise<void> => this.tell(`workflows/${id(workflow)}/start`);

  cancelWorkflow = (workflow: string): Promise<void> => this.tell(`workflows/${id(workflow)}/cancel`);

  retryFailed = (workflow: string): Promise<void> => this.tell(`workflows/${id(workflow)}/retry-failed`);

  logs = (job: string, signal?: AbortSignal): Promise<LogPage> => this.json(`jobs/${id(job)}/logs`, signal);

  async blob(path: string, signal?: AbortSignal): Promise<Blob> {
    const response = await this.send(path, signal ? { signal } : {});
    return response.blob();
  }

  async text(path: string, signal?: AbortSignal): Promise<string> {
    const response = await this.send(path, signal ? { signal } : {});
    return response.text();
  }

  /** The first page of a list: more than anybody looks at. */
  private async page<T>(path: string, signal?: AbortSignal): Promise<T[]> {
    return (await this.json<{ items: T[] }>(path, signal)).items;
  }

  private async tell(path: string): Promise<void> {
    await this.send(path, { method: "POST" });
  }

  private async json<T>(path: string, signal?: AbortSignal): Promise<T> {
    const response = await this.send(path, signal ? { signal } : {});
    return (await response.json()) as T;
  }

  private async send(path: string, init: RequestInit): Promise<Response> {
    let response: Response;
    try {
      response = await fetch(apiUrl(path), { ...init, headers: { ...this.headers(), ...init.headers } });
    } catch (error) {
      if (isAbort(error)) throw error;
      throw new ApiError(offlineProblem());
    }
    if (!response.ok) {
      throw new ApiError(problemFromBody(response.status, response.statusText, await response.text()));
    }
    return response;
  }
}

export const paths = {
  thumbnail: (slide: string): string => `slides/${id(slide)}/thumbnail`,
  dzi: (slide: string): string => `slides/${id(slide)}/dzi.dzi`,
  dziTiles: (slide: string): string => `slides/${id(slide)}/dzi_files/`,
  archive: (job: string): string => `jobs/${id(job)}/artifacts.zip`,
  artifact: (job: string, name: string): string => `jobs/${id(job)}/artifacts/${id(name)}`,
  liveWorkflow: (workflow: string): string => `ws/workflows/${id(workflow)}`,
};
