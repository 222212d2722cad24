/** The user's slides and runs, and the state of the system. */

import { api } from "../session";
import { poll } from "./polling";

export const slides = poll((abort) => api.peek().slides(abort), 10_000);
export const workflows = poll((abort) => api.peek().workflows(abort), 4_000);
export const system = poll((abort) => api.peek().status(abort), 4_000);

/** Forgets what belongs to the last user. */
export function forget(): void {
  slides.reset();
  workflows.reset();
}
