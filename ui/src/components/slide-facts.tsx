import type { Slide } from "../api/types";
import { bytes, dimensions, mppText } from "../format";

export function SlideFacts({ slide }: { slide: Slide }) {
  return (
    <details class="facts">
      <summary>
        <span class="name">{slide.filename}</span>
        <span class={slide.mpp === null ? "small warn" : "small muted"}>
          {dimensions(slide)}, {mppText(slide.mpp, slide.mpp_source)}
        </span>
      </summary>
      <dl>
        <dt>Scanner</dt>
        <dd>{slide.vendor}</dd>
        <dt>Objective</dt>
        <dd>{slide.objective_power === null ? "not stated" : `${slide.objective_power}×`}</dd>
        <dt>Stain</dt>
        <dd>{slide.stain}</dd>
        <dt>Levels</dt>
        <dd>{slide.levels.map((level) => `${level.width}×${level.height}`).join(", ")}</dd>
        <dt>File</dt>
        <dd>{bytes(slide.size_bytes)}</dd>
        <dt>SHA-256</dt>
        <dd class="mono">{slide.sha256}</dd>
      </dl>
      <Notes notes={slide.notes} />
    </details>
  );
}

export function Notes({ notes }: { notes: readonly string[] }) {
  if (!notes.length) return null;
  return (
    <ul class="notes" data-testid="notes">
      {notes.map((note) => (
        <li class="note">{note}</li>
      ))}
    </ul>
  );
}
