/**
 * Draws outlines on a canvas of its own and copies that to the screen. While the view moves and
 * there is much to draw, the last drawing is moved along with the slide in the same frame and
 * drawn sharp when the view rests; a light scene is drawn anew in every frame.
 */

import type { Rectangle } from "../api/client";
import type { Shapes } from "./shapes";
import { between, contains, intersects, visibleRectangle, type Size, type Transform } from "./transform";

export interface CellStyle {
  color: string;
  /** CSS pixels. */
  lineWidth: number;
}

/** Outlines below which a full redraw fits a frame on a machine without a GPU. */
const LIGHT_SCENE = 1500;
/** Below this mean size on screen (CSS pixels) an outline is only legible as a filled spot. */
const SPOT_SIZE = 3.5;
const MARGIN = 0.25;

export class CellLayer {
  private readonly canvas = document.createElement("canvas");
  private drawnAt: Transform | null = null;
  private drawnScreen: Size = { width: 0, height: 0 };
  private drawnShapes: readonly Shapes[] = [];
  private drawnRatio = 1;
  private drawnCount = 0;

  invalidate(): void {
    this.drawnAt = null;
  }

  paint(
    context: CanvasRenderingContext2D,
    shapes: readonly Shapes[],
    transform: Transform,
    screen: Size,
    ratio: number,
    style: CellStyle,
    moving: boolean,
  ): void {
    if (!this.usable(shapes, transform, screen, ratio, moving)) this.draw(shapes, transform, screen, ratio, style);
    if (!this.drawnAt) return;
    const move = between(this.drawnAt, transform);
    const marginX = screen.width * MARGIN;
    const marginY = screen.height * MARGIN;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.drawImage(
      this.canvas,
      move.x - marginX * move.scale,
      move.y - marginY * move.scale,
      (this.canvas.width / ratio) * move.scale,
      (this.canvas.height / ratio) * move.scale,
    );
  }

  private usable(shapes: readonly Shapes[], to: Transform, screen: Size, ratio: number, moving: boolean): boolean {
    const at = this.drawnAt;
    if (!at || ratio !== this.drawnRatio || shapes !== this.drawnShapes) return false;
    if (screen.width !== this.drawnScreen.width || screen.height !== this.drawnScreen.height) return false;
    if (at.scale === to.scale && at.x === to.x && at.y === to.y) return true;
    if (!moving || this.drawnCount < LIGHT_SCENE) return false;
    const zoom = to.scale / at.scale;
    return zoom > 0.6 && zoom < 1.8 && contains(this.coverage(at, screen), this.coverage(to, screen, 0));
  }

  /** The part of the plane that a drawing at this view, with its margin, holds. */
  private coverage(at: Transform, screen: Size, margin = MARGIN): Rectangle {
    const everywhere = { width: Infinity, height: Infinity };
    const grown = { width: screen.width * (1 + 2 * margin), height: screen.height * (1 + 2 * margin) };
    const shifted = { ...at, x: at.x + screen.width * margin, y: at.y + screen.height * margin };
    return visibleRectangle(shifted, grown, everywhere);
  }

  private draw(shapes: readonly Shapes[], at: Transform, screen: Size, ratio: number, style: CellStyle): void {
    const width = Math.ceil(screen.width * (1 + 2 * MARGIN) * ratio);
    const height = Math.ceil(screen.height * (1 + 2 * MARGIN) * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    const scale = at.scale * ratio;
    context.setTransform(
      scale,
      0,
      0,
      scale,
      (at.x + screen.width * MARGIN) * ratio,
      (at.y + screen.height * MARGIN) * ratio,
    );
    context.strokeStyle = style.color;
    context.fillStyle = style.color;
    context.lineJoin = "round";
    const seen = this.coverage(at, screen);
    this.drawnCount = 0;
    for (const region of shapes) {
      const spots = region.meanEdge * at.scale < SPOT_SIZE;
      // Thinner on small cells, so that the tissue between and inside of them stays visible.
      const thin = Math.max(0.6, (region.meanEdge * at.scale) / 9);
      context.lineWidth = Math.min(style.lineWidth, thin) / at.scale;
      for (const bucket of region.buckets) {
        if (!intersects(bucket.box, seen)) continue;
        this.drawnCount += bucket.count;
        if (spots) context.fill(bucket.path);
        context.stroke(bucket.path);
      }
    }
    this.drawnAt = { ...at };
    this.drawnScreen = { ...screen };
    this.drawnShapes = shapes;
    this.drawnRatio = ratio;
  }
}
