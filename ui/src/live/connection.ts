/**
 * A websocket that comes back: exponential backoff with jitter, at once when the network or the
 * tab returns, and a fresh connection when nothing was heard for long (a dead peer is silent).
 */

export type ConnectionState = "connecting" | "live" | "retrying" | "closed";

export interface Handlers<Message> {
  onOpen: () => void;
  onMessage: (message: Message) => void;
  onState: (state: ConnectionState) => void;
}

const FIRST_DELAY_MS = 400;
const LONGEST_DELAY_MS = 10_000;
const SILENCE_MS = 60_000;

export function retryDelay(failures: number, random: number): number {
  const ceiling = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** failures);
  return ceiling / 2 + (random * ceiling) / 2;
}

export class LiveConnection<Message> {
  private socket: WebSocket | null = null;
  private failures = 0;
  private stopped = false;
  private retryTimer: ReturnType<typeof setTimeout> | undefined;
  private silenceTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly url: string,
    private readonly handlers: Handlers<Message>,
    private readonly open: (url: string) => WebSocket = (target) => new WebSocket(target),
  ) {}

  start(): void {
    globalThis.addEventListener?.("online", this.hurry);
    globalThis.document?.addEventListener("visibilitychange", this.hurry);
    this.connect();
  }

  stop(): void {
    this.stopped = true;
    globalThis.removeEventListener?.("online", this.hurry);
    globalThis.document?.removeEventListener("visibilitychange", this.hurry);
    clearTimeout(this.retryTimer);
    clearTimeout(this.silenceTimer);
    this.socket?.close();
    this.socket = null;
    this.handlers.onState("closed");
  }

  private readonly hurry = (): void => {
    if (this.socket || this.stopped || globalThis.document?.hidden) return;
    clearTimeout(this.retryTimer);
    this.connect();
  };

  private connect(): void {
    this.handlers.onState(this.failures === 0 ? "connecting" : "retrying");
    const socket = this.open(this.url);
    this.socket = socket;
    socket.onopen = () => {
      this.handlers.onOpen();
      this.heard(socket);
    };
    socket.onmessage = (event: MessageEvent<string>) => {
      this.failures = 0;
      this.handlers.onState("live");
      this.heard(socket);
      this.handlers.onMessage(JSON.parse(event.data) as Message);
    };
    socket.onclose = () => this.lost(socket);
  }

  private heard(socket: WebSocket): void {
    clearTimeout(this.silenceTimer);
    this.silenceTimer = setTimeout(() => {
      socket.close();
      this.lost(socket);
    }, SILENCE_MS);
  }

  private lost(socket: WebSocket): void {
    if (this.socket !== socket || this.stopped) return;
    this.socket = null;
    clearTimeout(this.silenceTimer);
    this.handlers.onState("retrying");
    this.retryTimer = setTimeout(() => this.connect(), retryDelay(this.failures, Math.random()));
    this.failures += 1;
  }
}
