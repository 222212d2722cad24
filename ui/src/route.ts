/** Where the page is, as the address says it: every view has a link that can be sent. */

import { signal } from "@preact/signals";
import type { View } from "./viewer/slide-stage";

export type Route =
  | { page: "library" }
  | { page: "slide"; slide: string; view: View | null }
  | { page: "workflow"; workflow: string; job: string | null; view: View | null }
  | { page: "job"; job: string }
  | { page: "unknown" };

export function parseRoute(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#?\/?/, "").split("?");
  const parameters = new URLSearchParams(query);
  const [page, id, ...rest] = path.split("/");
  if (!page) return { page: "library" };
  if (!id || rest.length) return { page: "unknown" };
  const name = decodeURIComponent(id);
  const view = parseView(parameters.get("at"));
  if (page === "slides") return { page: "slide", slide: name, view };
  if (page === "workflows") return { page: "workflow", workflow: name, job: parameters.get("job"), view };
  if (page === "jobs") return { page: "job", job: name };
  return { page: "unknown" };
}

export function formatRoute(route: Route): string {
  switch (route.page) {
    case "slide":
      return `#/slides/${encodeURIComponent(route.slide)}${query({ at: formatView(route.view) })}`;
    case "workflow":
      return `#/workflows/${encodeURIComponent(route.workflow)}${query({ job: route.job, at: formatView(route.view) })}`;
    case "job":
      return `#/jobs/${encodeURIComponent(route.job)}`;
    case "library":
    case "unknown":
      return "#/";
  }
}

function query(values: Record<string, string | null>): string {
  const parts = Object.entries(values).flatMap(([name, value]) =>
    value === null ? [] : [`${name}=${encodeURIComponent(value).replaceAll("%2C", ",")}`],
  );
  return parts.length ? `?${parts.join("&")}` : "";
}

function formatView(view: View | null): string | null {
  return view && [view.x, view.y, view.width].map((value) => Math.round(value)).join(",");
}

function parseView(text: string | null): View | null {
  const [x, y, width, ...rest] = (text ?? "").split(",").map(Number);
  const usable = x !== undefined && y !== undefined && width !== undefined && !rest.length;
  if (!usable || ![x, y, width].every(Number.isFinite) || width <= 0) return null;
  return { x, y, width };
}

export const route = signal<Route>({ page: "library" });

export function startRouting(): void {
  const read = (): void => {
    route.value = parseRoute(location.hash);
  };
  addEventListener("hashchange", read);
  read();
}

export function go(to: Route): void {
  location.hash = formatRoute(to);
}

/** Changes the address without a new history entry (and without a hashchange). */
export function replaceRoute(to: Route): void {
  history.replaceState(null, "", formatRoute(to));
  route.value = to;
}

/** Puts what is in view into the address; the page itself does not change. */
export function rememberView(view: View): void {
  const now = parseRoute(location.hash);
  if (now.page === "slide" || now.page === "workflow") history.replaceState(null, "", formatRoute({ ...now, view }));
}
