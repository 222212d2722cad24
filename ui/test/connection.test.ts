import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { LiveConnection, retryDelay, type ConnectionState } from "../src/live/connection";

class FakeSocket {
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;
  closed = false;

  close(): void {
    this.closed = true;
  }
}

let sockets: FakeSocket[];
let states: ConnectionState[];
let received: unknown[];
let opened: number;
let live: LiveConnection<unknown>;

beforeEach(() => {
  vi.useFakeTimers();
  sockets = [];
  states = [];
  received = [];
  opened = 0;
  live = new LiveConnection<unknown>(
    "ws://server/ws",
    { onOpen: () => (opened += 1), onMessage: (m) => received.push(m), onState: (s) => states.push(s) },
    () => {
      const socket = new FakeSocket();
      sockets.push(socket);
      return socket as unknown as WebSocket;
    },
  );
  live.start();
});

afterEach(() => {
  live.stop();
  vi.useRealTimers();
});

test("a lost connection is made again and says so", () => {
  sockets[0]?.onopen?.();
  sockets[0]?.onmessage?.({ data: '{"kind":"snapshot"}' });
  expect(states).toEqual(["connecting", "live"]);
  sockets[0]?.onclose?.();
  expect(states.at(-1)).toBe("retrying");
  vi.advanceTimersByTime(10_000);
  expect(sockets).toHaveLength(2);
  sockets[1]?.onopen?.();
  sockets[1]?.onmessage?.({ data: "{}" });
  expect(states.at(-1)).toBe("live");
  expect(opened).toBe(2);
  expect(received).toHaveLength(2);
});

test("a silent connection is given up and made again", () => {
  sockets[0]?.onopen?.();
  sockets[0]?.onmessage?.({ data: "{}" });
  vi.advanceTimersByTime(75_000);
  expect(sockets[0]?.closed).toBe(true);
  expect(sockets.length).toBeGreaterThan(1);
});

test("a stopped connection stays stopped", () => {
  live.stop();
  sockets[0]?.onclose?.();
  vi.advanceTimersByTime(60_000);
  expect(sockets).toHaveLength(1);
  expect(states.at(-1)).toBe("closed");
});

test("retries wait longer and longer, up to a limit, never in step", () => {
  expect(retryDelay(0, 0)).toBe(200);
  expect(retryDelay(3, 1)).toBe(3200);
  expect(retryDelay(30, 1)).toBe(10_000);
  expect(retryDelay(4, 0.1)).not.toBe(retryDelay(4, 0.9));
});
