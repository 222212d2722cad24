/** What went wrong, in which words, and what to do about it. */

import { advice, title } from "../api/problem";
import type { Problem } from "../api/types";

interface Properties {
  problem: Problem;
  /** What it is about, where that is not plain. */
  subject?: string | undefined;
  onRetry?: (() => void) | undefined;
  onDismiss?: (() => void) | undefined;
}

export function ErrorPanel({ problem, subject, onRetry, onDismiss }: Properties) {
  return (
    <section class="error-panel" role="alert" data-testid="error-panel" data-code={problem.code}>
      <div>
        <h3>{subject ? `${subject}: ${title(problem).toLowerCase()}` : title(problem)}</h3>
        <p>{problem.detail}</p>
        {problem.errors?.length ? (
          <ul>
            {problem.errors.map((error) => (
              <li>
                {error.field}: {error.detail}
              </li>
            ))}
          </ul>
        ) : null}
        <p class="advice">{advice(problem)}</p>
      </div>
      {onRetry || onDismiss ? (
        <div class="actions">
          {onRetry ? (
            <button type="button" class="quiet flush" onClick={onRetry}>
              Try again
            </button>
          ) : null}
          {onDismiss ? (
            <button type="button" class={onRetry ? "quiet" : "quiet flush"} onClick={onDismiss}>
              Dismiss
            </button>
          ) : null}
        </div>
      ) : null}
    </section>
  );
}
