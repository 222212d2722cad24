/**
 * A painted mask as polygons. Pure.
 * Between two corners that follow each other on a line of the grid runs an edge, between the next two none; so corners
 * are paired along rows and along columns, and a ring alternates between both. The server takes what an odd number of
 * rings encloses, so that holes need no polygon to belong to.
 */

import type { Size } from "./transform";

export type Ring = [number, number][];

/** What the server takes in one outline, with room to spare. */
const MOST_POINTS = 30_000;

/** `inside` is [height * width], row by row. Rings are closed, in pixels of the mask. */
export function ringsOf(inside: Uint8Array, width: number, height: number): Ring[] {
  const at = (x: number, y: number): number =>
    x >= 0 && y >= 0 && x < width && y < height ? (inside[y * width + x] as number) : 0;
  const xs: number[] = [];
  const ys: number[] = [];
  const along: number[] = [];
  const across: number[] = [];
  // In each column the corner that waits for the next one below it.
  const open = new Int32Array(width + 1).fill(-1);
  const pair = (links: number[], one: number, other: number): void => {
    links[one] = other;
    links[other] = one;
  };
  for (let y = 0; y <= height; y += 1) {
    let left = -1;
    for (let x = 0; x <= width; x += 1) {
      const [a, b, c, d] = [at(x - 1, y - 1), at(x, y - 1), at(x - 1, y), at(x, y)];
      const diagonal = a === d && b === c && a !== b;
      if (!diagonal && (a ^ b ^ c ^ d) === 0) continue;
      const first = xs.length;
      xs.push(x);
      ys.push(y);
      if (!diagonal) {
        if (left < 0) left = first;
        else {
          pair(along, left, first);
          left = -1;
        }
        const above = open[x] as number;
        if (above < 0) open[x] = first;
        else {
          pair(across, above, first);
          open[x] = -1;
        }
        continue;
      }
      // Two pixels share this corner and no more: it belongs to two rings, once with the edge on its left.
      xs.push(x);
      ys.push(y);
      pair(along, left, first);
      left = first + 1;
      const [upper, lower] = a ? [first, first + 1] : [first + 1, first];
      pair(across, open[x] as number, upper);
      open[x] = lower;
    }
  }
  const rings: Ring[] = [];
  const met = new Uint8Array(xs.length);
  for (let first = 0; first < xs.length; first += 1) {
    if (met[first]) continue;
    const ring: Ring = [];
    for (let corner = first; !met[corner]; ) {
      const beside = along[corner] as number;
      met[corner] = met[beside] = 1;
      ring.push([xs[corner] as number, ys[corner] as number], [xs[beside] as number, ys[beside] as number]);
      corner = across[beside] as number;
    }
    ring.push(ring[0] as [number, number]);
    rings.push(ring);
  }
  return rings;
}

export type Polygon = {
  type: "Polygon";
  coordinates: Ring[];
};

/**
 * A painted mask in level-0 pixels, `downsample` of them to a pixel; coarser where it has more points than the server
 * takes. The last row and column end where the slide does. Null if it is empty.
 */
export function polygonOf(
  inside: Uint8Array,
  width: number,
  height: number,
  slide: Size,
  downsample: number,
): Polygon | null {
  const rings = ringsOf(inside, width, height);
  if (!rings.length) return null;
  if (rings.reduce((sum, ring) => sum + ring.length, 0) > MOST_POINTS) {
    const half = halved(inside, width, height);
    return polygonOf(half.inside, half.width, half.height, slide, 2 * downsample);
  }
  const place = (value: number, steps: number, edge: number): number =>
    value === steps ? edge : Math.min(edge, Math.round(100 * value * downsample) / 100);
  return {
    type: "Polygon",
    coordinates: rings.map((ring) => ring.map(([x, y]) => [place(x, width, slide.width), place(y, height, slide.height)])),
  };
}

/** Half as fine: a pixel is inside if half of what it covers is. */
export function halved(inside: Uint8Array, width: number, height: number): { inside: Uint8Array; width: number; height: number } {
  const [across, down] = [Math.ceil(width / 2), Math.ceil(height / 2)];
  const half = new Uint8Array(across * down);
  for (let y = 0; y < down; y += 1) {
    for (let x = 0; x < across; x += 1) {
      let [sum, pixels] = [0, 0];
      for (let v = 2 * y; v < Math.min(height, 2 * y + 2); v += 1) {
        for (let u = 2 * x; u < Math.min(width, 2 * x + 2); u += 1) {
          sum += inside[v * width + u] as number;
          pixels += 1;
        }
      }
      half[y * across + x] = 2 * sum >= pixels ? 1 : 0;
    }
  }
  return { inside: half, width: across, height: down };
}
