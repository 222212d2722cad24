import { useEffect, useRef, useState } from "preact/hooks";
import { system } from "../state/library";
import { user } from "../session";
import { UserForm } from "./user-form";

export function Header() {
  return (
    <header class="top">
      <a class="brand" href="#/" aria-label="Microtome, to the slides">
        <Mark />
        <span>Microtome</span>
      </a>
      <span class="spacer" />
      <SeatsSummary />
      {user.value ? <UserMenu name={user.value} /> : null}
    </header>
  );
}

function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <path d="M16 5 27 10.5l-11 5.5-11-5.5z" class="slice-top" />
      <path d="m5 16 11 5.5L27 16M5 21.5 16 27l11-5.5" class="slice" />
    </svg>
  );
}

function SeatsSummary() {
  const status = system.value.value;
  if (system.problem.value) return <span class="muted small">Server not reachable, trying again…</span>;
  if (!status) return null;
  const waiting = status.waiting_users.length;
  return (
    <span class="small muted seats-summary">
      {status.active_users.length} of {status.limits.max_active_users} seats taken
      {waiting ? `, ${waiting} waiting` : ""}
    </span>
  );
}

function UserMenu({ name }: { name: string }) {
  const [open, setOpen] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!open) return;
    const outside = (event: Event): void => {
      if (event.target instanceof Node && !box.current?.contains(event.target)) setOpen(false);
    };
    const escape = (event: KeyboardEvent): void => {
      if (event.key !== "Escape") return;
      setOpen(false);
      box.current?.querySelector("button")?.focus();
    };
    addEventListener("pointerdown", outside);
    addEventListener("keydown", escape);
    return () => {
      removeEventListener("pointerdown", outside);
      removeEventListener("keydown", escape);
    };
  }, [open]);
  return (
    <div class="user-menu" ref={box}>
      <button type="button" class="quiet user" data-testid="user-menu" aria-expanded={open} onClick={() => setOpen(!open)}>
        <span class="avatar" aria-hidden="true">
          {name[0]?.toUpperCase()}
        </span>
        {name}
      </button>
      {open ? (
        <div class="popover" role="dialog" aria-label="Change user">
          <p class="small muted">Work as someone else</p>
          <UserForm onDone={() => setOpen(false)} />
        </div>
      ) : null}
    </div>
  );
}
