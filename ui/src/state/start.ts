/** The workflows that the page offers for one slide. Pure. */

import type { JobParameters, NewJob, NewWorkflow, Slide } from "../api/types";

export type Recipe = "cells" | "tissue" | "whole-slide";

/** The assumption that the page offers for a slide that does not say its pixel size: about 20x. */
export const ASSUMED_MPP = 0.5;

const NAMES: Record<Recipe, string> = {
  cells: "Every cell",
  tissue: "Tissue",
  "whole-slide": "Whole slide",
};

export function workflowFor(recipe: Recipe, slide: Slide, parameters: JobParameters): NewWorkflow {
  const job = (key: string, type: NewJob["type"], depends_on: string[] = []): NewJob => ({
    key,
    type,
    slide_id: slide.id,
    branch: "main",
    depends_on,
    parameters,
  });
  const jobs: Record<Recipe, NewJob[]> = {
    cells: [job("tissue", "TISSUE_MASK"), job("cells", "SEGMENT_CELLS", ["tissue"])],
    tissue: [job("tissue", "TISSUE_MASK")],
    "whole-slide": [job("whole-slide", "INSTANSEG_WSI")],
  };
  return { name: `${NAMES[recipe]}, ${slide.filename}`, jobs: jobs[recipe], draft: false };
}

/** What the gateway takes for the size of a pixel, in µm. */
export const MPP_RANGE = [0.05, 10] as const;

/** A pixel size that a microscope could have; anything else is refused. */
export function readMpp(text: string): number | null {
  const value = Number(text.trim().replace(",", "."));
  return Number.isFinite(value) && value >= MPP_RANGE[0] && value <= MPP_RANGE[1] ? value : null;
}
