/** What the log said while the page looked, newest first. */

import type { EventMessage } from "../api/types";

export function Events({ events }: { events: readonly EventMessage[] }) {
  if (!events.length) return null;
  return (
    <details>
      <summary>Events, {events.length}</summary>
      <ol class="events small" reversed>
        {events.toReversed().map((event) => (
          <li key={`${event.position}-${event.type}-${event.job_id}`}>
            <span>{event.type}</span>
            <time dateTime={event.at}>{new Date(event.at).toLocaleTimeString()}</time>
            <span class="mono muted">{event.position ?? ""}</span>
          </li>
        ))}
      </ol>
    </details>
  );
}
