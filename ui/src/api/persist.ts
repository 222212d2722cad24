/**
 * Asks until there is an answer that is not a passing failure: a server that starts again must not
 * leave a page with holes. What would fail again for the same reason is not asked again.
 */

import type { Problem } from "./types";
import { isAbort, problemOf } from "./problem";

const FIRST_MS = 500;
const LONGEST_MS = 8_000;

/** `onProblem` hears of each failure that passes, and null at the end of them, also when nobody wants the answer any more. */
export async function persist<T>(
  ask: () => Promise<T>,
  signal: AbortSignal,
  onProblem?: (problem: Problem | null) => void,
): Promise<T> {
  let failed = false;
  try {
    for (let delay = FIRST_MS; ; delay = Math.min(LONGEST_MS, 2 * delay)) {
      try {
        return await ask();
      } catch (error) {
        const problem = problemOf(error);
        if (isAbort(error) || signal.aborted || !problem.transient) throw error;
        failed = true;
        onProblem?.(problem);
      }
      await rest(delay, signal);
    }
  } finally {
    if (failed) onProblem?.(null);
  }
}

function rest(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(new DOMException("No longer wanted.", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}
