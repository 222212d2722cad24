import { useEffect } from "preact/hooks";
import { user } from "../session";
import { slides, workflows } from "../state/library";
import { DropZone } from "./drop-zone";
import { ErrorPanel } from "./error-panel";
import { RunList } from "./run-list";
import { Seats } from "./seats";
import { SlideGrid } from "./slide-grid";

export function LibraryPage() {
  const name = user.value;
  useEffect(() => slides.start(), [name]);
  const problem = slides.problem.value;
  const known = slides.value.value;
  return (
    <main class="library">
      <div class="library-main">
        <h1>Slides</h1>
        <DropZone />
        {problem ? <ErrorPanel problem={problem} onRetry={() => void slides.refresh()} /> : null}
        {known ? <SlideGrid slides={known} /> : problem ? null : <p class="empty">Loading…</p>}
      </div>
      <aside>
        <Seats />
        <section class="card" aria-labelledby="runs-title">
          <h2 id="runs-title">Runs</h2>
          <RunList runs={(workflows.value.value ?? []).slice(0, 12)} empty="Open a slide and start one." />
        </section>
      </aside>
    </main>
  );
}
