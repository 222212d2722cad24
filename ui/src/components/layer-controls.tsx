interface Layer {
  shown: boolean;
  toggle: () => void;
}

interface Properties {
  cells: (Layer & { loading: boolean }) | null;
  tissue: (Layer & { opacity: number; setOpacity: (opacity: number) => void }) | null;
}

export function LayerControls({ cells, tissue }: Properties) {
  if (!cells && !tissue) return null;
  return (
    <div class="layers" role="group" aria-label="Layers">
      {cells ? (
        <button type="button" data-testid="toggle-cells" aria-pressed={cells.shown} aria-keyshortcuts="c" onClick={cells.toggle}>
          <i class={cells.loading ? "swatch cells loading" : "swatch cells"} aria-hidden="true" />
          Cells <kbd>c</kbd>
        </button>
      ) : null}
      {tissue ? (
        <>
          <button type="button" data-testid="toggle-tissue" aria-pressed={tissue.shown} aria-keyshortcuts="t" onClick={tissue.toggle}>
            <i class="swatch tissue" aria-hidden="true" />
            Tissue <kbd>t</kbd>
          </button>
          <input
            type="range"
            min="0.05"
            max="0.8"
            step="0.05"
            aria-label="Opacity of the tissue layer"
            disabled={!tissue.shown}
            value={tissue.opacity}
            onInput={(event) => tissue.setOpacity(Number(event.currentTarget.value))}
          />
        </>
      ) : null}
    </div>
  );
}
