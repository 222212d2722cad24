/**
 * One slide on screen: OpenSeadragon below, one canvas above it that is painted in the same
 * animation frame. Speaks level-0 pixels to the outside.
 */

import OpenSeadragon from "openseadragon";
import { apiUrl, paths, type Api, type Rectangle } from "../api/client";
import { persist } from "../api/persist";
import { isAbort, problemOf } from "../api/problem";
import type { Slide } from "../api/types";
import { CellLayer, type CellStyle } from "./cell-layer";
import type { Shapes } from "./shapes";
import { visibleRectangle, type Size, type Transform } from "./transform";

/**
 * OpenSeadragon adds an inline style sheet unless one with this mark is there. A strict policy would
 * refuse it with a message; the one rule it holds is in viewer.css instead.
 */
function declineInlineStyle(): void {
  if (document.querySelector("style[data-openseadragon-mobile-css]")) return;
  // Outside of the HTML namespace it is found by its name and is no style sheet.
  const mark = document.createElementNS("urn:microtome", "style");
  mark.setAttribute("data-openseadragon-mobile-css", "declined");
  document.head.append(mark);
}

/** How long a tile may wait for a server that is away. */
const TILE_PATIENCE_MS = 600_000;

export interface View {
  /** Centre and width of what is visible, in level-0 pixels. */
  x: number;
  y: number;
  width: number;
}

export interface StageEvents {
  onMove: (visible: Rectangle, transform: Transform) => void;
  onRest: (view: View) => void;
  onOpened: () => void;
  onFailed: (reason: string) => void;
}

export interface Scene {
  shapes: readonly Shapes[];
  showCells: boolean;
  tissue: HTMLCanvasElement | null;
  tissueOpacity: number;
  style: CellStyle;
  /** The line that is being drawn, [x0, y0, x1, y1, …] in level-0 pixels. */
  line: readonly number[] | null;
}

export class SlideStage {
  private readonly viewer: OpenSeadragon.Viewer;
  private readonly canvas: HTMLCanvasElement;
  private readonly cells = new CellLayer();
  private moving = false;
  private opened = false;
  private scene: Scene;

  constructor(
    element: HTMLElement,
    canvas: HTMLCanvasElement,
    private readonly slide: Slide,
    tiles: OpenSeadragon.DziTileSource,
    scene: Scene,
    private readonly events: StageEvents,
    view: View | null,
  ) {
    this.scene = scene;
    this.canvas = canvas;
    declineInlineStyle();
    this.viewer = OpenSeadragon({
      element,
      tileSources: [tiles],
      showNavigationControl: false,
      showNavigator: true,
      navigatorPosition: "TOP_RIGHT",
      navigatorSizeRatio: 0.14,
      navigatorAutoFade: false,
      navigatorBackground: "transparent",
      navigatorBorderColor: "transparent",
      navigatorDisplayRegionColor: "#5b45c9",
      minZoomImageRatio: 0.7,
      maxZoomPixelRatio: 8,
      visibilityRatio: 0.4,
      animationTime: 0.6,
      springStiffness: 8,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      timeout: TILE_PATIENCE_MS,
    });
    this.viewer.canvas.append(canvas);
    this.listen(view);
  }

  setScene(scene: Scene): void {
    const restyled = scene.style !== this.scene.style;
    this.scene = scene;
    if (restyled) this.cells.invalidate();
    this.paint();
  }

  /** While somebody draws, the canvas takes what is dragged, and passes on the wheel. */
  setDrawing(drawing: boolean): void {
    this.canvas.style.pointerEvents = drawing ? "auto" : "";
    this.canvas.style.touchAction = drawing ? "none" : "";
    this.canvas.style.cursor = drawing ? "crosshair" : "";
  }

  /** Where on the slide a point of the window is, in level-0 pixels. */
  placeOf(clientX: number, clientY: number): [number, number] {
    const box = this.canvas.getBoundingClientRect();
    const { scale, x, y } = this.transform();
    return [(clientX - box.left - x) / scale, (clientY - box.top - y) / scale];
  }

  zoomBy(factor: number): void {
    this.viewer.viewport.zoomBy(factor);
    this.viewer.viewport.applyConstraints();
  }

  home(): void {
    this.viewer.viewport.goHome();
  }

  fullScreen(element: HTMLElement): void {
    if (document.fullscreenElement) void document.exitFullscreen();
    else void element.requestFullscreen();
  }

  close(): void {
    this.opened = false;
    this.canvas.remove();
    this.viewer.destroy();
  }

  private listen(view: View | null): void {
    this.viewer.addHandler("open", () => {
      this.opened = true;
      if (view) this.goTo(view);
      this.events.onOpened();
      this.moved();
    });
    this.viewer.addHandler("open-failed", (event) => this.events.onFailed(event.message ?? "The slide cannot be shown."));
    this.viewer.addHandler("animation-start", () => {
      this.moving = true;
    });
    this.viewer.addHandler("animation-finish", () => {
      this.moving = false;
      this.moved();
      this.paint();
      if (this.opened) this.events.onRest(this.view());
    });
    this.viewer.addHandler("animation", () => this.moved());
    this.viewer.addHandler("resize", () => this.moved());
    // Raised in the animation frame in which OpenSeadragon has drawn the slide.
    this.viewer.addHandler("update-viewport", () => this.paint());
    this.viewer.addHandler("canvas-key", (event) => {
      const key = (event.originalEvent as KeyboardEvent).key.toLowerCase();
      // Turning and mirroring would need the overlay to follow; c and t belong to the page.
      if (["r", "f", "c", "t"].includes(key)) event.preventDefaultAction = true;
    });
  }

  /** Shows this part of the slide, at once. */
  goTo(view: View): void {
    if (!this.opened) return;
    const image = this.viewer.world.getItemAt(0);
    const height = (view.width * this.screen().height) / this.screen().width;
    this.viewer.viewport.fitBounds(
      image.imageToViewportRectangle(view.x - view.width / 2, view.y - height / 2, view.width, height),
      true,
    );
  }

  private view(): View {
    const transform = this.transform();
    const screen = this.screen();
    return {
      x: (screen.width / 2 - transform.x) / transform.scale,
      y: (screen.height / 2 - transform.y) / transform.scale,
      width: screen.width / transform.scale,
    };
  }

  private screen(): Size {
    const size = this.viewer.viewport.getContainerSize();
    return { width: size.x, height: size.y };
  }

  /** The image is one viewport unit wide, so two of its corners give the whole transform. */
  private transform(): Transform {
    const viewport = this.viewer.viewport;
    const origin = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const corner = viewport.pixelFromPoint(new OpenSeadragon.Point(1, 0), true);
    return { scale: (corner.x - origin.x) / this.slide.width, x: origin.x, y: origin.y };
  }

  private moved(): void {
    if (!this.opened) return;
    const transform = this.transform();
    this.events.onMove(visibleRectangle(transform, this.screen(), this.slide), transform);
  }

  private paint(): void {
    if (!this.opened) return;
    const screen = this.screen();
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    const width = Math.round(screen.width * ratio);
    const height = Math.round(screen.height * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    const transform = this.transform();
    const { tissue, tissueOpacity, shapes, showCells, style, line } = this.scene;
    if (tissue) {
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.globalAlpha = tissueOpacity;
      const { width: across, height: down } = this.slide;
      context.drawImage(tissue, transform.x, transform.y, across * transform.scale, down * transform.scale);
      context.globalAlpha = 1;
    }
    if (showCells && shapes.length) {
      this.cells.paint(context, shapes, transform, screen, ratio, style, this.moving);
    }
    if (line) drawLine(context, line, transform, ratio);
  }
}

function drawLine(context: CanvasRenderingContext2D, line: readonly number[], at: Transform, ratio: number): void {
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.beginPath();
  for (let index = 0; index + 1 < line.length; index += 2) {
    context.lineTo(at.x + at.scale * (line[index] as number), at.y + at.scale * (line[index + 1] as number));
  }
  context.setLineDash([6, 4]);
  context.lineWidth = 2;
  context.strokeStyle = "#201a45";
  context.stroke();
  context.setLineDash([]);
}

/** Reads the DZI description with the user's header; OpenSeadragon then asks for the tiles. */
export async function openTiles(api: Api, slide: Slide, signal: AbortSignal): Promise<OpenSeadragon.DziTileSource> {
  const text = await api.text(paths.dzi(slide.id), signal);
  const image = new DOMParser().parseFromString(text, "application/xml").documentElement;
  const size = image.getElementsByTagName("Size")[0] ?? image.getElementsByTagNameNS("*", "Size")[0];
  const number = (from: Element | undefined, name: string): number => Number(from?.getAttribute(name));
  const [width, height] = [number(size, "Width"), number(size, "Height")];
  const [tileSize, overlap] = [number(image, "TileSize"), number(image, "Overlap")];
  if (!width || !height || !tileSize) throw new Error("The server's description of the slide cannot be read.");
  const format = image.getAttribute("Format") ?? "jpeg";
  const tiles = apiUrl(paths.dziTiles(slide.id));
  const source = new OpenSeadragon.DziTileSource(width, height, tileSize, overlap || 0, tiles, format);
  source.downloadTileStart = (job: TileJob): void => {
    const request = new AbortController();
    // OpenSeadragon ends it by its method `abort`.
    job.userData["request"] = request;
    const path = job.src.slice(apiUrl("").length);
    persist(() => api.blob(path, request.signal), request.signal)
      .then((blob) => job.finish(blob, null, "rasterBlob"))
      .catch((error: unknown) => isAbort(error) || job.fail(problemOf(error).detail, null));
  };
  return source;
}

/** What OpenSeadragon hands to a download. It never asks again for a tile that failed, so that is done here. */
interface TileJob {
  src: string;
  userData: Record<string, unknown>;
  finish: (data: Blob, request: null, type: string) => void;
  fail: (reason: string, request: null) => void;
}
