/** What a finished job found, on what it rests, and the files it left. */

import { useState } from "preact/hooks";
import { paths } from "../api/client";
import { problemOf } from "../api/problem";
import type { Artifact, Job, JobResult, Problem, Slide } from "../api/types";
import { bytes, count, mppText, seconds, significant } from "../format";
import { api } from "../session";
import { ErrorPanel } from "./error-panel";
import { Notes } from "./slide-facts";

export function ResultPanel({ job, slide }: { job: Job; slide: Slide | null }) {
  const result = job.result;
  if (!result) return null;
  return (
    <section class="result" aria-label="Result" data-testid="result">
      <div class="figures">
        {result.cells !== null ? <Figure testId="cell-count" value={count(result.cells)} unit="cells" /> : null}
        {result.cells_per_mm2 !== null ? (
          <Figure testId="density" value={significant(result.cells_per_mm2)} unit="cells/mm²" />
        ) : null}
        {result.tissue_mm2 !== null ? (
          <Figure testId="tissue-area" value={significant(result.tissue_mm2)} unit="mm² tissue" />
        ) : null}
      </div>
      <Notes notes={result.notes} />
      <dl class="small">
        <dt>Pixel size</dt>
        <dd data-testid="result-mpp">{slide ? pixelSize(job, slide) : "…"}</dd>
        {result.model ? (
          <>
            <dt>Model</dt>
            <dd>{result.model}</dd>
          </>
        ) : null}
        {result.engine ? (
          <>
            <dt>Engine</dt>
            <dd>{result.engine}</dd>
          </>
        ) : null}
        {result.tiles_total > 0 ? (
          <>
            <dt>Tiles</dt>
            <dd>{tiles(result)}</dd>
          </>
        ) : null}
      </dl>
      <StageSeconds stages={result.stage_seconds} />
      <Artifacts job={job} artifacts={result.artifacts} />
    </section>
  );
}

function Figure({ testId, value, unit }: { testId: string; value: string; unit: string }) {
  return (
    <div class="figure">
      <strong data-testid={testId}>{value}</strong>
      <span class="small muted">{unit}</span>
    </div>
  );
}

function pixelSize(job: Job, slide: Slide): string {
  if (job.parameters.mpp) return mppText(job.parameters.mpp, "user");
  if (slide.mpp === null && job.parameters.assume_mpp) return mppText(job.parameters.assume_mpp, "assumed");
  return mppText(slide.mpp, slide.mpp_source);
}

function tiles(result: JobResult): string {
  const parts = [`${count(result.tiles_processed)} of ${count(result.tiles_total)}`];
  if (result.tiles_skipped) parts.push(`${count(result.tiles_skipped)} without tissue skipped`);
  if (result.tiles_cached) parts.push(`${count(result.tiles_cached)} already known`);
  return parts.join(", ");
}

function StageSeconds({ stages }: { stages: Record<string, number> }) {
  const entries = Object.entries(stages).filter(([, value]) => value > 0);
  const longest = Math.max(...entries.map(([, value]) => value));
  if (!entries.length) return null;
  return (
    <details>
      <summary>Time, {seconds(entries.reduce((sum, [, value]) => sum + value, 0))}</summary>
      <ul class="times small">
        {entries.map(([stage, value]) => (
          <li key={stage}>
            <span>{stage.replaceAll("_", " ")}</span>
            <span class="bar" aria-hidden="true">
              <i style={{ width: `${(100 * value) / longest}%` }} />
            </span>
            <span class="number">{seconds(value)}</span>
          </li>
        ))}
      </ul>
    </details>
  );
}

// No file has such a name.
const ALL = "/";

function Artifacts({ job, artifacts }: { job: Job; artifacts: readonly Artifact[] }) {
  const [problem, setProblem] = useState<Problem | null>(null);
  const [busy, setBusy] = useState<string | null>(null);
  if (!artifacts.length) return null;
  const client = api.value;
  const saveAll = (): Promise<void> => save(ALL, paths.archive(job.id), `${job.key}.zip`);
  const save = async (what: string, path: string, name: string): Promise<void> => {
    setBusy(what);
    setProblem(null);
    try {
      saveAs(await client.blob(path), name);
    } catch (error) {
      setProblem(problemOf(error));
    } finally {
      setBusy(null);
    }
  };
  return (
    <div>
      <h3>Files</h3>
      <ul class="artifacts">
        {artifacts.map((artifact) => (
          <li key={artifact.name}>
            <button
              type="button"
              class="quiet small"
              data-testid="artifact"
              data-name={artifact.name}
              title={`SHA-256 ${artifact.sha256}`}
              disabled={busy === artifact.name}
              onClick={() => void save(artifact.name, paths.artifact(job.id, artifact.name), artifact.name)}
            >
              <span>{artifact.name}</span>
              <span class="muted">{busy === artifact.name ? "fetching…" : bytes(artifact.size_bytes)}</span>
            </button>
          </li>
        ))}
      </ul>
      <button type="button" class="quiet small flush" data-testid="archive" disabled={busy === ALL} onClick={() => void saveAll()}>
        {busy === ALL ? "fetching…" : "All of them, with a mask of each tile (zip)"}
      </button>
      {problem ? <ErrorPanel problem={problem} onDismiss={() => setProblem(null)} /> : null}
    </div>
  );
}

function saveAs(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
