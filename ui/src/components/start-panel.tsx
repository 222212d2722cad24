/** Starts a workflow on a slide; asks for the pixel size when the slide does not say it. */

import { useEffect, useRef, useState } from "preact/hooks";
import { problemOf } from "../api/problem";
import type { JobParameters, Problem, Slide, Stain } from "../api/types";
import { go } from "../route";
import { api } from "../session";
import { drawn } from "../state/drawn";
import { workflows } from "../state/library";
import { ASSUMED_MPP, MPP_RANGE, readMpp, workflowFor, type Recipe } from "../state/start";
import { ErrorPanel } from "./error-panel";

export function StartPanel({ slide }: { slide: Slide }) {
  const [typed, setTyped] = useState("");
  const [assume, setAssume] = useState(false);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [stain, setStain] = useState<Stain>("he");
  const size = parametersFor(slide, typed, assume);
  const mine = drawn.value?.slide === slide.id ? drawn.value.tissue : null;
  const parameters = size && { ...size, ...(stain === "he" ? {} : { stain }), ...(mine ? { tissue: mine } : {}) };

  const start = async (recipe: Recipe): Promise<void> => {
    if (!parameters) return;
    setBusy(true);
    setProblem(null);
    try {
      const workflow = await api.value.submit(workflowFor(recipe, slide, parameters));
      void workflows.refresh();
      drawn.value = null;
      go({ page: "workflow", workflow: workflow.id, job: null, view: null });
    } catch (error) {
      setProblem(problemOf(error));
    } finally {
      setBusy(false);
    }
  };

  // What was drawn is for the buttons here, which may be far down the page.
  const section = useRef<HTMLElement>(null);
  useEffect(() => {
    if (mine) section.current?.scrollIntoView({ block: "nearest" });
  }, [mine]);

  const blocked = busy || !parameters;
  return (
    <section class="start" ref={section} aria-label="Start">
      {slide.mpp === null ? (
        <MppQuestion typed={typed} setTyped={setTyped} assume={assume} setAssume={setAssume} />
      ) : null}
      {mine ? (
        <p class="note row" data-testid="drawn-tissue">
          <span>The next run looks only at the tissue that you drew.</span>
          <button type="button" class="quiet small" onClick={() => (drawn.value = null)}>
            Forget it
          </button>
        </p>
      ) : null}
      <label class="row small">
        <span>Stain</span>
        <select
          data-testid="stain"
          value={stain}
          onChange={(event) => setStain(event.currentTarget.value as Stain)}
        >
          <option value="he">H&amp;E</option>
          <option value="hdab">Hematoxylin and DAB</option>
        </select>
      </label>
      <button type="button" class="primary large" data-testid="start-cells" disabled={blocked} onClick={() => void start("cells")}>
        Find every cell
      </button>
      <div class="row even">
        <button type="button" data-testid="start-tissue" disabled={blocked} onClick={() => void start("tissue")}>
          Tissue only
        </button>
        <button
          type="button"
          data-testid="start-whole-slide"
          title="Tissue and cells in one job, of type INSTANSEG_WSI"
          disabled={blocked}
          onClick={() => void start("whole-slide")}
        >
          All in one job
        </button>
      </div>
      {slide.stain === "fluorescence" ? (
        <p class="note">This looks like a fluorescence slide. The default model is made for H&amp;E and may refuse it.</p>
      ) : null}
      {problem ? <ErrorPanel problem={problem} onDismiss={() => setProblem(null)} /> : null}
    </section>
  );
}

/** Null while the pixel size is still an open question. */
function parametersFor(slide: Slide, typed: string, assume: boolean): JobParameters | null {
  if (slide.mpp !== null) return {};
  if (assume) return { assume_mpp: ASSUMED_MPP };
  const mpp = readMpp(typed);
  return mpp === null ? null : { mpp };
}

interface Question {
  typed: string;
  setTyped: (text: string) => void;
  assume: boolean;
  setAssume: (assume: boolean) => void;
}

function MppQuestion({ typed, setTyped, assume, setAssume }: Question) {
  const refused = typed.trim() !== "" && readMpp(typed) === null;
  return (
    <fieldset class="mpp" data-testid="mpp-question">
      <legend>How large is a pixel?</legend>
      <p class="small muted">The slide does not say. Cell sizes and densities depend on it.</p>
      <label class="row">
        <input
          data-testid="mpp-input"
          inputMode="decimal"
          aria-label="Micrometres per pixel"
          aria-invalid={refused}
          placeholder="for example 0.25"
          disabled={assume}
          value={typed}
          onInput={(event) => setTyped(event.currentTarget.value)}
        />
        <span>µm/px</span>
      </label>
      {refused ? <p class="hint refused">A number between {MPP_RANGE[0]} and {MPP_RANGE[1]}.</p> : null}
      <label class="check">
        <input
          type="checkbox"
          data-testid="mpp-assume"
          checked={assume}
          onChange={(event) => setAssume(event.currentTarget.checked)}
        />
        Assume {ASSUMED_MPP} µm/px. The result will say so.
      </label>
    </fieldset>
  );
}
