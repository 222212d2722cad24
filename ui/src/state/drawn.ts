/** The tissue that the user drew on a slide, for the next run on it. */

import { signal } from "@preact/signals";
import type { Polygon } from "../viewer/tracing";

export interface Drawn {
  slide: string;
  tissue: Polygon;
  /** The same as it was painted, to show it and to go on with it. */
  mask: HTMLCanvasElement;
}

export const drawn = signal<Drawn | null>(null);
