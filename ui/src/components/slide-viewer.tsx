/** The slide with what a job found drawn over it, and the controls of both. */

import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { paths, type Rectangle } from "../api/client";
import { persist } from "../api/persist";
import { isAbort, problemOf } from "../api/problem";
import type { Job, Problem, Slide } from "../api/types";
import { count } from "../format";
import { rememberView } from "../route";
import { api } from "../session";
import { drawn as drawnTissue } from "../state/drawn";
import { useDrawing } from "../state/drawing";
import { NOTHING_DRAWN, Outlines, type Drawn } from "../viewer/outlines";
import type { Scene, SlideStage, View } from "../viewer/slide-stage";
import { scaleBar } from "../viewer/scale-bar";
import { tintedMask } from "../viewer/tissue";
import { ErrorPanel } from "./error-panel";
import { LayerControls } from "./layer-controls";
import { TissueEditor } from "./tissue-editor";

/** Seen against haematoxylin, eosin and glass alike. */
const CELL_STYLE = { color: "#00d59b", lineWidth: 1.5 };
const TISSUE_TINT = { red: 91, green: 69, blue: 201 };

interface Properties {
  slide: Slide;
  /** The finished job to draw, if any. */
  job: Job | null;
  mpp: number | null;
  /** What the address asks to see. */
  view: View | null;
}

export function SlideViewer({ slide, job, mpp, view }: Properties) {
  const frame = useRef<HTMLDivElement>(null);
  const host = useRef<HTMLDivElement>(null);
  const stage = useRef<SlideStage | null>(null);
  const outlines = useRef<Outlines | null>(null);
  const visible = useRef<Rectangle | null>(null);
  const canvas = useMemo(overlayCanvas, [slide.id]);
  const [ready, setReady] = useState(false);
  const [scale, setScale] = useState(0);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [drawn, setDrawn] = useState<Drawn>(NOTHING_DRAWN);
  const [tissue, setTissue] = useState<HTMLCanvasElement | null>(null);
  const [showCells, setShowCells] = useState(true);
  const [showTissue, setShowTissue] = useState(true);
  const [opacity, setOpacity] = useState(0.3);
  const client = api.value;
  const mine = drawnTissue.value?.slide === slide.id ? drawnTissue.value.mask : null;
  const editing = useDrawing(slide, mine ?? tissue, canvas, stage, TISSUE_TINT);

  const hasCells = job?.result?.artifacts.some((artifact) => artifact.name.startsWith("cells.")) ?? false;
  const hasTissue = job?.result?.artifacts.some((artifact) => artifact.name === "tissue_mask.png") ?? false;
  const result = job?.result ? job.id : null;

  const scene: Scene = {
    shapes: drawn.shapes,
    showCells,
    // What was drawn for the next run is shown until it starts.
    tissue: editing.mask ?? mine ?? (showTissue ? tissue : null),
    tissueOpacity: opacity,
    style: CELL_STYLE,
    line: editing.line,
  };
  const latestScene = useRef(scene);
  latestScene.current = scene;

  useEffect(() => {
    const abort = new AbortController();
    setReady(false);
    setProblem(null);
    const open = async (): Promise<void> => {
      // The viewer is the larger part of the page; the list of slides does not wait for it.
      const { SlideStage: Stage, openTiles } = await import("../viewer/slide-stage");
      const tiles = await persist(() => openTiles(client, slide, abort.signal), abort.signal, setProblem);
      if (abort.signal.aborted || !host.current) return;
      stage.current = new Stage(host.current, canvas, slide, tiles, latestScene.current, {
        onMove: (rectangle, transform) => {
          visible.current = rectangle;
          setScale(transform.scale);
          outlines.current?.show(rectangle);
        },
        onRest: rememberView,
        onOpened: () => setReady(true),
        onFailed: (reason) => setProblem(problemOf(new Error(reason))),
      }, view);
    };
    open().catch((error: unknown) => {
      if (!isAbort(error)) setProblem(problemOf(error));
    });
    return () => {
      abort.abort();
      stage.current?.close();
      stage.current = null;
      visible.current = null;
    };
  }, [client, slide.id, canvas]);

  useEffect(() => {
    if (view) stage.current?.goTo(view);
  }, [view]);

  useEffect(() => {
    if (!result || !hasCells) return;
    const loading = new Outlines(client, result, slide, setDrawn);
    outlines.current = loading;
    if (visible.current) loading.show(visible.current);
    return () => {
      loading.close();
      outlines.current = null;
      setDrawn(NOTHING_DRAWN);
    };
  }, [client, result, hasCells, slide.id]);

  useEffect(() => {
    if (!result || !hasTissue) return;
    const abort = new AbortController();
    persist(() => client.blob(paths.artifact(result, "tissue_mask.png"), abort.signal), abort.signal, setProblem)
      .then((blob) => tintedMask(blob, TISSUE_TINT))
      .then((mask) => abort.signal.aborted || setTissue(mask))
      .catch((error: unknown) => {
        if (!isAbort(error)) setProblem(problemOf(error));
      });
    return () => {
      abort.abort();
      setTissue(null);
    };
  }, [client, result, hasTissue]);

  // With cells to look at, the tissue tint starts hidden: it would change the colours under them.
  useEffect(() => setShowTissue(!hasCells), [hasCells, result]);

  useEffect(() => {
    stage.current?.setScene(latestScene.current);
    canvas.dataset["outlines"] = String(showCells ? drawn.outlines : 0);
    canvas.dataset["tissue"] = String(latestScene.current.tissue !== null);
    canvas.dataset["drawn"] = String(mine !== null);
  }, [drawn, showCells, tissue, showTissue, mine, opacity, ready, canvas, editing.mask, editing.line, editing.strokes]);

  const toggleCells = useCallback(() => setShowCells((shown) => !shown), []);
  const toggleTissue = useCallback(() => setShowTissue((shown) => !shown), []);
  useLayerKeys(toggleCells, toggleTissue);

  const bar = scale > 0 ? scaleBar(scale, mpp) : null;
  return (
    <div class="viewer" ref={frame} data-testid="viewer" data-ready={ready}>
      <div class="viewer-host" ref={host} />
      {problem ? (
        <div class="viewer-problem">
          <ErrorPanel problem={problem} />
        </div>
      ) : null}
      {drawn.sampled && showCells ? (
        <p class="viewer-note" role="status" data-testid="sampled-note">
          Showing {count(drawn.outlines)} of {count(drawn.known)} outlines, zoom in for all
        </p>
      ) : null}
      {drawn.problem ? (
        <p class="viewer-note" role="alert">
          Outlines could not be loaded: {drawn.problem.detail}
        </p>
      ) : null}
      <div class="viewer-zoom" role="group" aria-label="View">
        <button type="button" aria-label="Zoom in" onClick={() => stage.current?.zoomBy(1.6)}>
          +
        </button>
        <button type="button" aria-label="Zoom out" onClick={() => stage.current?.zoomBy(1 / 1.6)}>
          −
        </button>
        <button type="button" aria-label="Whole slide" onClick={() => stage.current?.home()}>
          <svg viewBox="0 0 16 16" aria-hidden="true">
            <path d="M3 6V3h3M10 3h3v3M13 10v3h-3M6 13H3v-3" />
          </svg>
        </button>
      </div>
      <TissueEditor
        brush={editing.brush}
        choose={editing.choose}
        begin={editing.begin}
        clear={editing.clear}
        use={() => {
          const finished = editing.finish();
          if (finished) drawnTissue.value = { slide: slide.id, ...finished };
        }}
        cancel={editing.cancel}
        hint={editing.hint}
      />
      <LayerControls
        cells={hasCells ? { shown: showCells, toggle: toggleCells, loading: drawn.loading } : null}
        tissue={hasTissue ? { shown: showTissue, toggle: toggleTissue, opacity, setOpacity } : null}
      />
      {bar ? (
        <div class="scale-bar" data-testid="scale-bar" aria-label={`Scale: ${bar.label}`}>
          <span>{bar.label}</span>
          <i style={{ width: `${bar.width}px` }} />
        </div>
      ) : null}
    </div>
  );
}

function overlayCanvas(): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.className = "overlay";
  canvas.dataset["testid"] = "overlay";
  canvas.dataset["outlines"] = "0";
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

/** c and t switch the layers, unless the key goes into a field. */
function useLayerKeys(toggleCells: () => void, toggleTissue: () => void): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      const target = event.target;
      const typing = target instanceof HTMLInputElement && target.type !== "checkbox" && target.type !== "range";
      // In a list a letter chooses what begins with it.
      if (typing || target instanceof HTMLSelectElement || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "c") toggleCells();
      if (event.key === "t") toggleTissue();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [toggleCells, toggleTissue]);
}
