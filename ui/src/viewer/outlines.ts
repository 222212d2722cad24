/**
 * The outlines of one job for whatever part of the slide is visible: fetched by region, kept in a
 * bounded cache, and never blank while finer regions load. What is a sample is said to be one.
 */

import type { Api, Rectangle } from "../api/client";
import { persist } from "../api/persist";
import { isAbort, problemOf } from "../api/problem";
import type { Problem } from "../api/types";
import { edgeFor, parent, rectangleOf, regionKey, regionsIn, rootEdge, type Region } from "./regions";
import { buildShapes, type Shapes } from "./shapes";
import type { Size } from "./transform";

export interface Drawn {
  shapes: readonly Shapes[];
  /** Different outlines among them. */
  outlines: number;
  /** Cells known to the server in the same regions. */
  known: number;
  sampled: boolean;
  loading: boolean;
  problem: Problem | null;
}

export const NOTHING_DRAWN: Drawn = {
  shapes: [],
  outlines: 0,
  known: 0,
  sampled: false,
  loading: false,
  problem: null,
};

const REGIONS_KEPT = 48;

export class Outlines {
  private readonly loaded = new Map<string, Shapes>();
  private readonly pending = new Map<string, AbortController>();
  private wanted: Region[] = [];
  private current: Drawn = NOTHING_DRAWN;
  private closed = false;

  constructor(
    private readonly api: Api,
    private readonly job: string,
    private readonly slide: Size,
    private readonly changed: (drawn: Drawn) => void,
  ) {}

  get drawn(): Drawn {
    return this.current;
  }

  /** Asks for what the rectangle needs and lets go of what it no longer needs. */
  show(view: Rectangle): void {
    const edge = Math.min(edgeFor(view), rootEdge(this.slide));
    this.wanted = uniqueRegions(regionsIn(view, edge).map((region) => this.cover(region)));
    const keys = new Set(this.wanted.map(regionKey));
    for (const [key, request] of this.pending) {
      if (!keys.has(key)) {
        request.abort();
        this.pending.delete(key);
      }
    }
    for (const region of this.wanted) {
      if (!this.loaded.has(regionKey(region)) && !this.pending.has(regionKey(region))) void this.load(region);
    }
    this.update();
  }

  close(): void {
    this.closed = true;
    for (const request of this.pending.values()) request.abort();
    this.pending.clear();
  }

  /** The region itself, or a larger one whose complete answer is already here. */
  private cover(region: Region): Region {
    for (let larger = region; larger.edge <= rootEdge(this.slide); larger = parent(larger)) {
      const shapes = this.loaded.get(regionKey(larger));
      if (shapes && !shapes.sampled) return larger;
    }
    return region;
  }

  private async load(region: Region): Promise<void> {
    const key = regionKey(region);
    const request = new AbortController();
    const rectangle = rectangleOf(region, this.slide);
    this.pending.set(key, request);
    try {
      const cells = await persist(
        () => this.api.cells(this.job, rectangle, request.signal),
        request.signal,
        (problem) => this.publish({ ...this.current, problem }),
      );
      if (this.closed || request.signal.aborted) return;
      this.loaded.set(key, buildShapes(cells, rectangle));
      this.pending.delete(key);
      this.evict();
      this.update();
    } catch (error) {
      if (isAbort(error) || this.closed) return;
      this.pending.delete(key);
      this.publish({ ...this.current, loading: this.pending.size > 0, problem: problemOf(error) });
    }
  }

  /** Switches to the wanted regions once all of them are here; until then the last picture stays. */
  private update(): void {
    const shapes: Shapes[] = [];
    for (const region of this.wanted) {
      const found = this.loaded.get(regionKey(region));
      if (!found) {
        if (!this.current.loading) this.publish({ ...this.current, loading: true });
        return;
      }
      this.loaded.delete(regionKey(region));
      this.loaded.set(regionKey(region), found);
      shapes.push(found);
    }
    const same = shapes.length === this.current.shapes.length && shapes.every((s, i) => s === this.current.shapes[i]);
    if (same && !this.current.loading && !this.current.problem) return;
    this.publish({
      shapes,
      outlines: shapes.length === 1 ? (shapes[0]?.names.length ?? 0) : new Set(shapes.flatMap((s) => s.names)).size,
      known: shapes.reduce((sum, s) => sum + s.known, 0),
      sampled: shapes.some((s) => s.sampled),
      loading: false,
      problem: null,
    });
  }

  private publish(drawn: Drawn): void {
    this.current = drawn;
    this.changed(drawn);
  }

  private evict(): void {
    const keep = new Set(this.wanted.map(regionKey));
    for (const key of this.loaded.keys()) {
      if (this.loaded.size <= REGIONS_KEPT) return;
      if (!keep.has(key)) this.loaded.delete(key);
    }
  }
}

function uniqueRegions(regions: readonly Region[]): Region[] {
  return [...new Map(regions.map((region) => [regionKey(region), region])).values()];
}
