/** Outlines of one region as paths, in buckets small enough to be left out when off screen. */

import type { Rectangle } from "../api/client";
import type { CellOutlines } from "../api/types";

export interface Bucket {
  box: Rectangle;
  path: Path2D;
  count: number;
}

export interface Shapes {
  /** Cells the server knows in the region, of which it may have sent a sample. */
  known: number;
  sampled: boolean;
  buckets: Bucket[];
  /** One name per outline, to count those once that lie on a border between regions. */
  names: string[];
  /** Mean edge of an outline's box in level-0 pixels; 0 without outlines. */
  meanEdge: number;
}

const BUCKETS_PER_EDGE = 8;

function boxOf(outline: readonly number[]): Rectangle {
  const box = { x0: Infinity, y0: Infinity, x1: -Infinity, y1: -Infinity };
  for (let index = 0; index + 1 < outline.length; index += 2) {
    const x = outline[index] as number;
    const y = outline[index + 1] as number;
    if (x < box.x0) box.x0 = x;
    if (x > box.x1) box.x1 = x;
    if (y < box.y0) box.y0 = y;
    if (y > box.y1) box.y1 = y;
  }
  return box;
}

function trace(path: Path2D, outline: readonly number[]): void {
  path.moveTo(outline[0] as number, outline[1] as number);
  for (let index = 2; index + 1 < outline.length; index += 2) {
    path.lineTo(outline[index] as number, outline[index + 1] as number);
  }
  path.closePath();
}

export function buildShapes(cells: CellOutlines, region: Rectangle): Shapes {
  const buckets = new Map<number, Bucket>();
  const names: string[] = [];
  const width = (region.x1 - region.x0) / BUCKETS_PER_EDGE;
  const height = (region.y1 - region.y0) / BUCKETS_PER_EDGE;
  let edges = 0;
  for (const outline of cells.outlines) {
    if (outline.length < 6) continue;
    const box = boxOf(outline);
    edges += (box.x1 - box.x0 + box.y1 - box.y0) / 2;
    names.push(`${outline.length},${outline[0]},${outline[1]},${outline[2]},${outline[3]}`);
    const column = Math.floor((box.x0 - region.x0) / width);
    const row = Math.floor((box.y0 - region.y0) / height);
    const place = (row + 1) * (BUCKETS_PER_EDGE + 2) + column + 1;
    let bucket = buckets.get(place);
    if (!bucket) {
      bucket = { box: { ...box }, path: new Path2D(), count: 0 };
      buckets.set(place, bucket);
    }
    bucket.box = {
      x0: Math.min(bucket.box.x0, box.x0),
      y0: Math.min(bucket.box.y0, box.y0),
      x1: Math.max(bucket.box.x1, box.x1),
      y1: Math.max(bucket.box.y1, box.y1),
    };
    bucket.count += 1;
    trace(bucket.path, outline);
  }
  return {
    known: cells.count,
    sampled: cells.sampled,
    buckets: [...buckets.values()],
    names,
    meanEdge: names.length ? edges / names.length : 0,
  };
}
