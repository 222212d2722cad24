/** Asks again and again while someone looks; a failure is shown and the asking goes on. */

import { signal, type Signal } from "@preact/signals";
import { isAbort, problemOf } from "../api/problem";
import type { Problem } from "../api/types";

export interface Polled<T> {
  value: Signal<T | null>;
  problem: Signal<Problem | null>;
  /** Asks now. */
  refresh: () => Promise<void>;
  start: () => () => void;
  reset: () => void;
}

export function poll<T>(load: (abort: AbortSignal) => Promise<T>, everyMs: number): Polled<T> {
  const value = signal<T | null>(null);
  const problem = signal<Problem | null>(null);
  let request: AbortController | null = null;

  const refresh = async (): Promise<void> => {
    request?.abort();
    const mine = new AbortController();
    request = mine;
    try {
      const loaded = await load(mine.signal);
      if (mine.signal.aborted) return;
      // An equal answer keeps the old object, so that nothing is drawn again.
      if (JSON.stringify(loaded) !== JSON.stringify(value.peek())) value.value = loaded;
      problem.value = null;
    } catch (error) {
      if (!isAbort(error) && !mine.signal.aborted) problem.value = problemOf(error);
    }
  };

  const start = (): (() => void) => {
    const ask = (): void => {
      if (!document.hidden) void refresh();
    };
    ask();
    const timer = setInterval(ask, everyMs);
    document.addEventListener("visibilitychange", ask);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", ask);
      request?.abort();
    };
  };

  const reset = (): void => {
    request?.abort();
    request = null;
    value.value = null;
    problem.value = null;
  };

  return { value, problem, refresh, start, reset };
}
