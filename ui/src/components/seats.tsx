/** Who is active and who waits, as the server says it. */

import { system } from "../state/library";
import { user } from "../session";

export function Seats() {
  const status = system.value.value;
  if (!status) return null;
  const free = Math.max(0, status.limits.max_active_users - status.active_users.length);
  const you = (name: string): string => (name === user.value ? `${name} (you)` : name);
  return (
    <section class="card" data-testid="seats" aria-labelledby="seats-title">
      <h2 id="seats-title">Seats</h2>
      <ul class="seats">
        {status.active_users.map((name) => (
          <li class="taken" key={name} data-testid="seat-active">
            <i aria-hidden="true" />
            {you(name)}
          </li>
        ))}
        {Array.from({ length: free }, (_, index) => (
          <li class="free" key={`free-${index}`}>
            <i aria-hidden="true" />
            free
          </li>
        ))}
      </ul>
      {status.waiting_users.length ? (
        <>
          <h3>Waiting</h3>
          <ol class="waiting">
            {status.waiting_users.map((name) => (
              <li key={name} data-testid="seat-waiting">
                {you(name)}
              </li>
            ))}
          </ol>
        </>
      ) : null}
      <p class="small muted">
        {[status.model, status.engine, `version ${status.version}`].filter(Boolean).join(" · ")}
      </p>
    </section>
  );
}
