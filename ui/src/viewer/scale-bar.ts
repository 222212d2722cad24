/** How long a scale bar is and what it says. Pure. */

export interface ScaleBar {
  /** CSS pixels. */
  width: number;
  label: string;
}

const LONGEST = 140;

/** The longest 1-2-5 length that fits; without mpp it is said in pixels of the slide, never in µm. */
export function scaleBar(scale: number, mpp: number | null): ScaleBar {
  const perPixel = (mpp ?? 1) / scale;
  const most = LONGEST * perPixel;
  const power = 10 ** Math.floor(Math.log10(most));
  const step = [5, 2, 1].find((factor) => factor * power <= most) ?? 1;
  const length = step * power;
  return { width: length / perPixel, label: label(length, mpp !== null) };
}

function label(length: number, micrometres: boolean): string {
  const text = (value: number): string => String(Number(value.toPrecision(3)));
  if (!micrometres) return `${text(length)} px`;
  return length >= 1000 ? `${text(length / 1000)} mm` : `${text(length)} µm`;
}
