import { describe, expect, test } from "vitest";
import { edgeFor, parent, rectangleOf, regionsIn, rootEdge } from "../src/viewer/regions";
import { scaleBar } from "../src/viewer/scale-bar";
import { between, visibleRectangle } from "../src/viewer/transform";

const slide = { width: 2220, height: 2967 };

describe("coordinates", () => {
  test("the visible rectangle is in level-0 pixels and cut to the slide", () => {
    const at = { scale: 0.5, x: -100, y: 50 };
    expect(visibleRectangle(at, { width: 800, height: 600 }, slide)).toEqual({ x0: 200, y0: 0, x1: 1800, y1: 1100 });
  });

  test("what is drawn at one view lands where the other view would draw it", () => {
    const from = { scale: 0.5, x: -100, y: 50 };
    const to = { scale: 2, x: 33, y: -700 };
    const move = between(from, to);
    const point = 1234;
    expect(move.x + move.scale * (from.x + from.scale * point)).toBeCloseTo(to.x + to.scale * point);
    expect(move.y + move.scale * (from.y + from.scale * point)).toBeCloseTo(to.y + to.scale * point);
  });
});

describe("regions", () => {
  test("cover the view without overlap, at most four of them", () => {
    const view = { x0: 700, y0: 900, x1: 1500, y1: 1400 };
    const regions = regionsIn(view, edgeFor(view));
    expect(edgeFor(view)).toBe(1024);
    expect(regions).toHaveLength(4);
    const area = regions.reduce((sum, region) => {
      const box = rectangleOf(region, slide);
      const width = Math.min(box.x1, view.x1) - Math.max(box.x0, view.x0);
      const height = Math.min(box.y1, view.y1) - Math.max(box.y0, view.y0);
      return sum + width * height;
    }, 0);
    expect(area).toBe(800 * 500);
  });

  test("the root holds the whole slide and is cut to it", () => {
    const root = { edge: rootEdge(slide), column: 0, row: 0 };
    expect(rectangleOf(root, slide)).toEqual({ x0: 0, y0: 0, x1: 2220, y1: 2967 });
    expect(parent({ edge: 2048, column: 1, row: 1 })).toEqual(root);
  });

  test("an empty view needs nothing", () => {
    expect(regionsIn({ x0: 10, y0: 10, x1: 10, y1: 90 }, 512)).toEqual([]);
  });
});

describe("scale bar", () => {
  test("is a round length of its stated size", () => {
    const bar = scaleBar(0.5, 0.25);
    expect(bar.label).toBe("50 µm");
    expect((bar.width / 0.5) * 0.25).toBeCloseTo(50);
    expect(scaleBar(0.01, 0.25).label).toBe("2 mm");
  });

  test("never claims micrometres for an unknown pixel size", () => {
    expect(scaleBar(1, null)).toEqual({ label: "100 px", width: 100 });
  });
});
