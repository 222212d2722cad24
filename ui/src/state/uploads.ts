/** Files on their way to the server, one after the other. */

import { signal } from "@preact/signals";
import { isAbort, problemOf } from "../api/problem";
import type { Problem } from "../api/types";
import type { Api } from "../api/client";
import { upload } from "../api/upload";
import { api } from "../session";
import { slides } from "./library";

export type Phase = "queued" | "sending" | "reading" | "failed";

export interface Sending {
  id: number;
  /** Who sends it, and for whom it is shown. */
  user: string;
  filename: string;
  total: number;
  sent: number;
  phase: Phase;
  problem: Problem | null;
}

export const uploads = signal<readonly Sending[]>([]);
/** The slide that arrived last, to point it out. */
export const arrived = signal<string | null>(null);

const aborts = new Map<number, () => void>();
let next = 1;
let chain: Promise<void> = Promise.resolve();

function change(id: number, with_: Partial<Sending>): void {
  uploads.value = uploads.value.map((one) => (one.id === id ? { ...one, ...with_ } : one));
}

export function dismissUpload(id: number): void {
  aborts.get(id)?.();
  aborts.delete(id);
  uploads.value = uploads.value.filter((one) => one.id !== id);
}

export function sendFiles(files: Iterable<File>): void {
  // Whoever is at the page when a file's turn comes, it belongs to whoever dropped it.
  const client = api.peek();
  for (const file of files) {
    const id = next;
    next += 1;
    const sending: Sending = { id, user: client.user, filename: file.name, total: file.size, sent: 0, phase: "queued", problem: null };
    uploads.value = [...uploads.value, sending];
    chain = chain.then(() => send(client, id, file));
  }
}

async function send(client: Api, id: number, file: File): Promise<void> {
  if (!uploads.value.some((one) => one.id === id)) return;
  const running = upload(client, file, (sent) => {
    change(id, { sent, phase: sent >= file.size ? "reading" : "sending" });
  });
  aborts.set(id, running.abort);
  change(id, { phase: "sending" });
  try {
    const slide = await running.done;
    arrived.value = slide.id;
    dismissUpload(id);
    await slides.refresh();
  } catch (error) {
    if (!isAbort(error)) change(id, { phase: "failed", problem: problemOf(error) });
  } finally {
    aborts.delete(id);
  }
}
