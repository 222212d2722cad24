/** Who is using the page. The name is a label for work, not a login. */

import { computed, signal } from "@preact/signals";
import { Api } from "./api/client";

const KEY = "microtome.user";
const VALID = /^[A-Za-z0-9_-]{1,64}$/;

export const QUICK_NAMES = ["alice", "bob", "carol"] as const;

export function isUser(name: string): boolean {
  return VALID.test(name);
}

function remembered(): string | null {
  try {
    const name = localStorage.getItem(KEY);
    return name && isUser(name) ? name : null;
  } catch {
    return null;
  }
}

export const user = signal<string | null>(remembered());
export const api = computed(() => new Api(user.value ?? ""));

export function signIn(name: string): void {
  user.value = name;
  try {
    localStorage.setItem(KEY, name);
  } catch {
    // Private windows may refuse; the name then lasts as long as the page.
  }
}
