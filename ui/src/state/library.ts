/** The user's slides and runs, and the state of the system. */

import { effect } from "@preact/signals";
import { api, user } from "../session";
import { poll } from "./polling";

export const slides = poll((abort) => api.peek().slides(abort), 10_000);
export const workflows = poll((abort) => api.peek().workflows(abort), 4_000);
export const system = poll((abort) => api.peek().status(abort), 4_000);

// At once when the user changes, before a component of the new user asks: a reset later would end its request.
effect(() => {
  void user.value;
  slides.reset();
  workflows.reset();
});
