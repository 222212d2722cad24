import type { Status } from "../api/types";
import { statusText } from "../format";

export function StatusChip({ status }: { status: Status }) {
  return (
    <span class={`chip chip-${status.toLowerCase()}`} data-status={status}>
      <i aria-hidden="true" />
      {statusText(status)}
    </span>
  );
}
