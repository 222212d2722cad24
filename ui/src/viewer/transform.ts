/** Level-0 pixels ↔ screen pixels: screen = offset + scale × level-0. Pure. */

import type { Rectangle } from "../api/client";

export interface Transform {
  /** Screen (CSS) pixels per level-0 pixel. */
  scale: number;
  x: number;
  y: number;
}

export interface Size {
  width: number;
  height: number;
}

/** What of the slide the screen shows, in level-0 pixels, cut to the slide. */
export function visibleRectangle(transform: Transform, screen: Size, slide: Size): Rectangle {
  const clamp = (value: number, most: number): number => Math.min(most, Math.max(0, value));
  return {
    x0: clamp(-transform.x / transform.scale, slide.width),
    y0: clamp(-transform.y / transform.scale, slide.height),
    x1: clamp((screen.width - transform.x) / transform.scale, slide.width),
    y1: clamp((screen.height - transform.y) / transform.scale, slide.height),
  };
}

/** The transform that takes what `from` drew to where `to` would draw it. */
export function between(from: Transform, to: Transform): Transform {
  const scale = to.scale / from.scale;
  return { scale, x: to.x - from.x * scale, y: to.y - from.y * scale };
}

export function intersects(a: Rectangle, b: Rectangle): boolean {
  return a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1;
}

export function contains(outer: Rectangle, inner: Rectangle): boolean {
  return outer.x0 <= inner.x0 && outer.y0 <= inner.y0 && outer.x1 >= inner.x1 && outer.y1 >= inner.y1;
}
