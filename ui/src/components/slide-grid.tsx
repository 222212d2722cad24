import { paths } from "../api/client";
import type { Slide } from "../api/types";
import { ago, dimensions, mppText } from "../format";
import { formatRoute } from "../route";
import { arrived } from "../state/uploads";
import { RemoteImage } from "./remote-image";

export function SlideGrid({ slides }: { slides: readonly Slide[] }) {
  if (!slides.length) return <p class="empty">No slides yet. The first one you add appears here.</p>;
  return (
    <ul class="slide-grid">
      {slides.map((slide) => (
        <li key={slide.id}>
          <SlideCard slide={slide} fresh={arrived.value === slide.id} />
        </li>
      ))}
    </ul>
  );
}

function SlideCard({ slide, fresh }: { slide: Slide; fresh: boolean }) {
  return (
    <a
      class={fresh ? "slide-card fresh" : "slide-card"}
      href={formatRoute({ page: "slide", slide: slide.id, view: null })}
      data-testid="slide-card"
      data-slide-id={slide.id}
      data-filename={slide.filename}
    >
      <span class="thumb">
        <RemoteImage path={paths.thumbnail(slide.id)} alt={`Overview of ${slide.filename}`} />
      </span>
      <span class="text">
        <strong title={slide.filename}>{slide.filename}</strong>
        <span class="small muted">{dimensions(slide)}</span>
        <span class={slide.mpp === null ? "small warn" : "small muted"}>{mppText(slide.mpp, slide.mpp_source)}</span>
        <span class="small muted">
          {slide.vendor}, {ago(slide.registered_at, Date.now())}
        </span>
      </span>
    </a>
  );
}
