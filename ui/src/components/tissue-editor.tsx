/** The tools with which a mask is edited; the drawing itself is the viewer's. */

import type { Brush } from "../viewer/painting";

interface Properties {
  /** What drawing does; null while nobody edits. */
  brush: Brush | null;
  choose: (brush: Brush) => void;
  begin: () => void;
  clear: () => void;
  use: () => void;
  cancel: () => void;
  hint: string | null;
}

export function TissueEditor({ brush, choose, begin, clear, use, cancel, hint }: Properties) {
  if (brush === null) {
    return (
      <button type="button" class="viewer-edit" data-testid="edit-tissue" onClick={begin}>
        Edit tissue
      </button>
    );
  }
  return (
    <div class="viewer-edit" role="group" aria-label="Edit tissue">
      <button type="button" data-testid="tissue-add" aria-pressed={brush === "add"} onClick={() => choose("add")}>
        Add
      </button>
      <button type="button" data-testid="tissue-remove" aria-pressed={brush === "remove"} onClick={() => choose("remove")}>
        Remove
      </button>
      <button type="button" data-testid="tissue-clear" onClick={clear}>
        Clear all
      </button>
      <button type="button" class="primary" data-testid="tissue-use" onClick={use}>
        Use this mask
      </button>
      <button type="button" data-testid="tissue-cancel" onClick={cancel}>
        Cancel
      </button>
      <p class="small muted" role="status">
        {hint ?? "Draw around an area; the wheel still zooms."}
      </p>
    </div>
  );
}
