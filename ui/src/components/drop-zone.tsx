import { useState } from "preact/hooks";
import { bytes } from "../format";
import { user } from "../session";
import { dismissUpload, sendFiles, uploads, type Sending } from "../state/uploads";
import { ErrorPanel } from "./error-panel";
import { ProgressBar } from "./progress-bar";

export function DropZone() {
  const [over, setOver] = useState(false);
  const mine = uploads.value.filter((sending) => sending.user === user.value);
  return (
    <section aria-label="Add a slide">
      <label
        class={over ? "drop over" : "drop"}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={(event) => {
          event.preventDefault();
          setOver(false);
          sendFiles(event.dataTransfer?.files ?? []);
        }}
      >
        <input
          type="file"
          multiple
          data-testid="upload-input"
          onChange={(event) => {
            sendFiles([...(event.currentTarget.files ?? [])]);
            event.currentTarget.value = "";
          }}
        />
        <strong>Drop a slide here</strong>
        <span>
          or <u>choose a file</u>. SVS, NDPI, MRXS, SCN, BIF, OME-TIFF and more.
        </span>
      </label>
      {mine.map((sending) => (
        <UploadRow key={sending.id} sending={sending} />
      ))}
    </section>
  );
}

const PHASES = { queued: "waiting for its turn", reading: "received, being opened and checked" };

function UploadRow({ sending }: { sending: Sending }) {
  const dismiss = (): void => dismissUpload(sending.id);
  if (sending.problem) {
    return <ErrorPanel problem={sending.problem} subject={sending.filename} onDismiss={dismiss} />;
  }
  const share = sending.total ? sending.sent / sending.total : 1;
  const words =
    sending.phase === "sending" || sending.phase === "failed"
      ? `${bytes(sending.sent)} of ${bytes(sending.total)}`
      : PHASES[sending.phase];
  return (
    <div class="upload" data-testid="upload" data-phase={sending.phase}>
      <div class="row">
        <span class="name">{sending.filename}</span>
        <span class="small muted" aria-live="polite">
          {words}
        </span>
        <button type="button" class="quiet small" onClick={dismiss}>
          Cancel
        </button>
      </div>
      <ProgressBar value={sending.phase === "reading" ? null : share} label={`Upload of ${sending.filename}`} />
    </div>
  );
}
