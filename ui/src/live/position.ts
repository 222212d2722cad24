/** Places in the event log: "xid:position", ordered first by transaction, then by position. */

export function comparePositions(a: string, b: string): number {
  const left = parts(a);
  const right = parts(b);
  for (let index = 0; index < Math.max(left.length, right.length); index += 1) {
    const difference = (left[index] ?? 0n) - (right[index] ?? 0n);
    if (difference !== 0n) return difference < 0n ? -1 : 1;
  }
  return 0;
}

function parts(position: string): bigint[] {
  return String(position)
    .split(":")
    .map((part) => (/^\d+$/.test(part) ? BigInt(part) : 0n));
}
