interface Properties {
  /** From 0 to 1; null while it is unknown. */
  value: number | null;
  label: string;
  testId?: string;
}

export function ProgressBar({ value, label, testId }: Properties) {
  const percent = value === null ? null : Math.round(Math.min(1, Math.max(0, value)) * 100);
  return (
    <div
      class={percent === null ? "progress unknown" : "progress"}
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      {...(percent === null ? {} : { "aria-valuenow": percent })}
      {...(testId ? { "data-testid": testId } : {})}
    >
      <span style={{ width: `${percent ?? 30}%` }} />
    </div>
  );
}
