import { describe, expect, test } from "vitest";
import { halved, polygonOf, ringsOf, type Ring } from "../src/viewer/tracing";

/** Which pixel centres an odd number of rings encloses. */
function filled(rings: readonly Ring[], width: number, height: number): Uint8Array {
  const inside = new Uint8Array(width * height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      let crossings = 0;
      for (const ring of rings) {
        for (let at = 0; at + 1 < ring.length; at += 1) {
          const [[x0, y0], [x1, y1]] = [ring[at] as [number, number], ring[at + 1] as [number, number]];
          if (x0 === x1 && x0 <= x + 0.5 && Math.min(y0, y1) <= y + 0.5 && Math.max(y0, y1) > y + 0.5) crossings += 1;
        }
      }
      inside[y * width + x] = crossings % 2;
    }
  }
  return inside;
}

describe("a mask as rings", () => {
  test("every small mask is what its rings enclose, and every ring is closed", () => {
    for (let number = 0; number < 2 ** 12; number += 1) {
      const mask = Uint8Array.from({ length: 12 }, (_, bit) => (number >> bit) & 1);
      const rings = ringsOf(mask, 4, 3);
      for (const ring of rings) {
        expect(ring[0]).toEqual(ring.at(-1));
        ring.slice(1).forEach(([x, y], at) => {
          const [px, py] = ring[at] as [number, number];
          expect((x === px) !== (y === py)).toBe(true);
        });
      }
      expect([...filled(rings, 4, 3)]).toEqual([...mask]);
    }
  });

  test("in level-0 pixels it reaches the edges of the slide", () => {
    const all = new Uint8Array(6).fill(1);
    expect(polygonOf(all, 3, 2, { width: 1000, height: 667 }, 1000 / 3)?.coordinates).toEqual([
      [[0, 0], [1000, 0], [1000, 667], [0, 667], [0, 0]],
    ]);
    expect(polygonOf(new Uint8Array(6), 3, 2, { width: 10, height: 10 }, 5)).toBeNull();
  });

  test("its pixels are square, also where the last row is not whole", () => {
    const last = Uint8Array.from([0, 0, 0, 0, 0, 1]);
    expect(polygonOf(last, 2, 3, { width: 66, height: 90 }, 33)?.coordinates).toEqual([
      [[33, 66], [66, 66], [66, 90], [33, 90], [33, 66]],
    ]);
  });

  test("one with too many points becomes coarser", () => {
    const [width, height] = [400, 300];
    const checkered = Uint8Array.from({ length: width * height }, (_, at) => ((at % width) + Math.floor(at / width)) % 2);
    const points = polygonOf(checkered, width, height, { width: 4000, height: 3000 }, 10)?.coordinates.flat().length ?? 0;
    expect(points).toBeGreaterThan(0);
    expect(points).toBeLessThan(30_000);
    expect([...halved(Uint8Array.from([1, 1, 0, 1, 0, 0]), 3, 2).inside]).toEqual([1, 0]);
  });
});
