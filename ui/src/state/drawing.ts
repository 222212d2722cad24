/** Drawing on the viewer: pointer events become areas of a mask. */

import type { RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { beginMask, maskPolygon, paintArea, type Brush } from "../viewer/painting";
import type { SlideStage } from "../viewer/slide-stage";
import type { Tint } from "../viewer/tissue";
import type { Size } from "../viewer/transform";
import type { Drawn } from "./drawn";

export interface Drawing {
  /** What drawing does; null while nobody edits. */
  brush: Brush | null;
  mask: HTMLCanvasElement | null;
  line: readonly number[] | null;
  /** Counts what was painted, because the mask stays the same object. */
  strokes: number;
  hint: string | null;
  begin: () => void;
  choose: (brush: Brush) => void;
  clear: () => void;
  cancel: () => void;
  /** The edited mask, and the end of editing; null if it is empty, and editing goes on. */
  finish: () => Pick<Drawn, "tissue" | "mask"> | null;
}

/** `begun`: what editing begins with; null: nothing. */
export function useDrawing(
  slide: Size,
  begun: HTMLCanvasElement | null,
  canvas: HTMLCanvasElement,
  stage: RefObject<SlideStage | null>,
  tint: Tint,
): Drawing {
  const [brush, setBrush] = useState<Brush | null>(null);
  const [mask, setMask] = useState<HTMLCanvasElement | null>(null);
  const [line, setLine] = useState<readonly number[] | null>(null);
  const [strokes, setStrokes] = useState(0);
  const [hint, setHint] = useState<string | null>(null);
  const points = useRef<number[] | null>(null);
  // The finger that draws; another one beside it draws nothing.
  const pointer = useRef<number | null>(null);

  useEffect(() => {
    if (brush === null || !mask) return;
    stage.current?.setDrawing(true);
    const add = (event: PointerEvent): void => {
      const place = stage.current?.placeOf(event.clientX, event.clientY);
      if (!place || !points.current) return;
      points.current.push(...place);
      setLine([...points.current]);
    };
    const down = (event: PointerEvent): void => {
      if (event.button !== 0) return;
      event.stopPropagation();
      if (points.current) return;
      canvas.setPointerCapture(event.pointerId);
      pointer.current = event.pointerId;
      points.current = [];
      add(event);
    };
    const move = (event: PointerEvent): void => {
      if (!points.current || event.pointerId !== pointer.current) return;
      event.stopPropagation();
      add(event);
    };
    const up = (event: PointerEvent): void => {
      if (!points.current || event.pointerId !== pointer.current) return;
      event.stopPropagation();
      paintArea(mask, slide, points.current, brush, tint);
      points.current = null;
      setLine(null);
      setHint(null);
      setStrokes((count) => count + 1);
    };
    // What the browser took for something else was not drawn.
    const cancelled = (event: PointerEvent): void => {
      if (event.pointerId !== pointer.current) return;
      points.current = null;
      setLine(null);
    };
    canvas.addEventListener("pointerdown", down);
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", cancelled);
    return () => {
      stage.current?.setDrawing(false);
      canvas.removeEventListener("pointerdown", down);
      canvas.removeEventListener("pointermove", move);
      canvas.removeEventListener("pointerup", up);
      canvas.removeEventListener("pointercancel", cancelled);
    };
  }, [brush, mask, canvas, slide, stage, tint]);

  const end = (): void => {
    points.current = null;
    setBrush(null);
    setMask(null);
    setLine(null);
    setHint(null);
  };
  return {
    brush,
    mask,
    line,
    strokes,
    hint,
    choose: setBrush,
    begin: () => {
      setMask(beginMask(begun, slide));
      setBrush("add");
    },
    clear: () => {
      mask?.getContext("2d")?.clearRect(0, 0, mask.width, mask.height);
      setStrokes((count) => count + 1);
    },
    cancel: end,
    finish: () => {
      const tissue = mask && maskPolygon(mask, slide);
      if (!tissue) {
        setHint("There is nothing in the mask yet.");
        return null;
      }
      end();
      return { tissue, mask };
    },
  };
}
