/** The mask that a user edits: a tinted picture over the slide, onto which areas are drawn. */

import type { Tint } from "./tissue";
import { polygonOf, type Polygon } from "./tracing";
import type { Size } from "./transform";

/** As fine as any mask that is found. What is too fine for the server's polygons is made coarser in the end. */
const FINEST = 4096;

export type Brush = "add" | "remove";

/** Pixels of the slide in a pixel of its mask, the same across and down: the last row may end beyond the slide. */
function downsampleOf(mask: Size, slide: Size): number {
  return Math.max(slide.width, slide.height) / Math.max(mask.width, mask.height);
}

/** Begins with what was found, pixel by pixel, or with nothing. */
export function beginMask(found: HTMLCanvasElement | null, slide: Size): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  const scale = Math.min(1, FINEST / Math.max(slide.width, slide.height));
  canvas.width = found?.width ?? Math.max(1, Math.round(slide.width * scale));
  canvas.height = found?.height ?? Math.max(1, Math.round(slide.height * scale));
  if (found) canvas.getContext("2d", { willReadFrequently: true })?.drawImage(found, 0, 0);
  return canvas;
}

/** Adds or removes the area that a line encloses; `line` is [x0, y0, x1, y1, …] in level-0 pixels. */
export function paintArea(mask: HTMLCanvasElement, slide: Size, line: readonly number[], brush: Brush, tint: Tint): void {
  const context = mask.getContext("2d", { willReadFrequently: true });
  if (!context || line.length < 6) return;
  const downsample = downsampleOf(mask, slide);
  context.globalCompositeOperation = brush === "add" ? "source-over" : "destination-out";
  context.fillStyle = `rgb(${tint.red} ${tint.green} ${tint.blue})`;
  context.beginPath();
  for (let index = 0; index + 1 < line.length; index += 2) {
    context.lineTo((line[index] as number) / downsample, (line[index + 1] as number) / downsample);
  }
  context.fill();
}

export function maskPolygon(mask: HTMLCanvasElement, slide: Size): Polygon | null {
  const { width, height } = mask;
  const data = mask.getContext("2d", { willReadFrequently: true })?.getImageData(0, 0, width, height).data;
  if (!data) return null;
  const inside = new Uint8Array(width * height);
  for (let index = 0; index < inside.length; index += 1) inside[index] = (data[4 * index + 3] as number) > 127 ? 1 : 0;
  return polygonOf(inside, width, height, slide, downsampleOf(mask, slide));
}
