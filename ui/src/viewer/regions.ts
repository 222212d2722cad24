/**
 * The grid in which outlines are fetched. Edges are powers of two in level-0 pixels, so the
 * regions of one edge nest in those of the next and a whole answer for a large one serves its parts.
 */

import type { Rectangle } from "../api/client";
import type { Size } from "./transform";

export interface Region {
  edge: number;
  column: number;
  row: number;
}

const SMALLEST_EDGE = 512;

export function regionKey(region: Region): string {
  return `${region.edge}:${region.column}:${region.row}`;
}

/** The smallest edge at which the view touches at most four regions. */
export function edgeFor(view: Rectangle): number {
  const extent = Math.max(view.x1 - view.x0, view.y1 - view.y0, SMALLEST_EDGE);
  return 2 ** Math.ceil(Math.log2(extent));
}

export function rootEdge(slide: Size): number {
  return 2 ** Math.ceil(Math.log2(Math.max(slide.width, slide.height, SMALLEST_EDGE)));
}

export function regionsIn(view: Rectangle, edge: number): Region[] {
  const regions: Region[] = [];
  if (view.x1 <= view.x0 || view.y1 <= view.y0) return regions;
  for (let row = Math.floor(view.y0 / edge); row * edge < view.y1; row += 1) {
    for (let column = Math.floor(view.x0 / edge); column * edge < view.x1; column += 1) {
      regions.push({ edge, column, row });
    }
  }
  return regions;
}

export function parent(region: Region): Region {
  return { edge: region.edge * 2, column: region.column >> 1, row: region.row >> 1 };
}

/** The region's rectangle, cut to the slide. */
export function rectangleOf(region: Region, slide: Size): Rectangle {
  return {
    x0: region.column * region.edge,
    y0: region.row * region.edge,
    x1: Math.min(slide.width, (region.column + 1) * region.edge),
    y1: Math.min(slide.height, (region.row + 1) * region.edge),
  };
}
