import { expect, test } from "vitest";
import { formatRoute, parseRoute, type Route } from "../src/route";

test("every view survives its own address", () => {
  const routes: Route[] = [
    { page: "library" },
    { page: "slide", slide: "a1", view: { x: 10, y: -20, width: 300 } },
    { page: "workflow", workflow: "w 1/ä", job: "j2", view: null },
    { page: "workflow", workflow: "w1", job: null, view: { x: 1, y: 2, width: 3 } },
    { page: "job", job: "j1" },
  ];
  for (const route of routes) expect(parseRoute(formatRoute(route))).toEqual(route);
});

test("a nonsense view is no view, a nonsense address is unknown", () => {
  expect(parseRoute("#/slides/a?at=1,2")).toEqual({ page: "slide", slide: "a", view: null });
  expect(parseRoute("#/slides/a?at=1,x,3")).toEqual({ page: "slide", slide: "a", view: null });
  expect(parseRoute("#/slides/a?at=1,2,0")).toEqual({ page: "slide", slide: "a", view: null });
  expect(parseRoute("#/elsewhere/a")).toEqual({ page: "unknown" });
});
