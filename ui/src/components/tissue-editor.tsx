/** The tools with which a mask is edited; the drawing itself is the viewer's. */

import { useEffect, useRef } from "preact/hooks";
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
  const tools = useRef<HTMLDivElement>(null);
  const opener = useRef<HTMLButtonElement>(null);
  const edits = brush !== null;
  const edited = useRef(edits);
  // The button that was pressed is gone: whoever uses the keyboard goes on where it was.
  useEffect(() => {
    if (edits === edited.current) return;
    edited.current = edits;
    (edits ? tools.current?.querySelector("button") : opener.current)?.focus();
  }, [edits]);
  if (!edits) {
    return (
      <button type="button" class="viewer-edit" ref={opener} data-testid="edit-tissue" onClick={begin}>
        Edit tissue
      </button>
    );
  }
  return (
    <div class="viewer-edit" ref={tools} role="group" aria-label="Edit tissue">
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
        {hint ?? (brush === "add" ? "Draw around what is tissue." : "Draw around what is no tissue.")}
      </p>
    </div>
  );
}
