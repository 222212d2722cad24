/** Numbers, sizes and times as people read them. */

import type { JobType, MppSource, Slide, Status } from "./api/types";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export function count(value: number): string {
  return whole.format(value);
}

export function significant(value: number): string {
  return value >= 1000 ? whole.format(value) : short.format(value);
}

export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let size = value;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${size < 10 && unit > 0 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

export function seconds(value: number): string {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 90) return `${Math.round(value)} s`;
  const minutes = Math.floor(value / 60);
  return minutes < 90 ? `${minutes} min ${Math.round(value % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function ago(time: string, now: number): string {
  const passed = Math.max(0, (now - Date.parse(time)) / 1000);
  if (passed < 60) return "just now";
  if (passed < 3600) return `${Math.floor(passed / 60)} min ago`;
  if (passed < 86_400) return `${Math.floor(passed / 3600)} h ago`;
  return new Date(time).toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric" });
}

/** When something is expected, as a person would say it. */
export function expected(time: string, now: number): string {
  const ahead = (Date.parse(time) - now) / 1000;
  if (ahead < 20) return "in a moment";
  if (ahead < 5400) return `in about ${Math.max(1, Math.round(ahead / 60))} min`;
  return `at about ${new Date(time).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" })}`;
}

const SOURCES: Record<MppSource, string> = {
  vendor: "from the scanner",
  resolution_tag: "from the TIFF's resolution tags",
  user: "given by you",
  assumed: "assumed",
  unknown: "unknown",
};

export function mppText(mpp: number | null, source: MppSource): string {
  return mpp === null ? "pixel size unknown" : `${mpp.toFixed(3)} µm/px, ${SOURCES[source]}`;
}

export function dimensions(slide: Slide): string {
  return `${count(slide.width)} × ${count(slide.height)} px`;
}

const JOBS: Record<JobType, string> = {
  TISSUE_MASK: "Tissue mask",
  SEGMENT_CELLS: "Cells",
  INSTANSEG_WSI: "Whole slide",
};

export function jobTitle(type: JobType): string {
  return JOBS[type] ?? type;
}

const STATUSES: Record<Status, string> = {
  DRAFT: "Draft",
  PENDING: "Waiting",
  RUNNING: "Running",
  SUCCEEDED: "Done",
  FAILED: "Failed",
  CANCELLED: "Cancelled",
  SKIPPED: "Skipped",
};

export function statusText(status: Status): string {
  return STATUSES[status] ?? status;
}
