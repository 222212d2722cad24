/** Asks for a name; the quick names spare typing. */

import { useState } from "preact/hooks";
import { isUser, QUICK_NAMES, signIn, user } from "../session";

export function UserForm({ onDone }: { onDone?: () => void }) {
  const [name, setName] = useState("");
  const [refused, setRefused] = useState(false);
  const choose = (chosen: string): void => {
    if (!isUser(chosen)) {
      setRefused(true);
      return;
    }
    setName("");
    signIn(chosen);
    onDone?.();
  };
  return (
    <form
      class="user-form"
      onSubmit={(event) => {
        event.preventDefault();
        choose(name.trim());
      }}
    >
      <div class="quick-names" role="group" aria-label="Quick names">
        {QUICK_NAMES.map((quick) => (
          <button
            type="button"
            class="quiet"
            key={quick}
            aria-pressed={user.value === quick}
            data-testid={`quick-user-${quick}`}
            onClick={() => choose(quick)}
          >
            {quick}
          </button>
        ))}
      </div>
      <div class="row">
        <input
          data-testid="user-input"
          aria-label="User name"
          aria-invalid={refused}
          aria-describedby="user-hint"
          placeholder="or another name"
          autocomplete="username"
          spellcheck={false}
          maxLength={64}
          value={name}
          onInput={(event) => {
            setName(event.currentTarget.value);
            setRefused(false);
          }}
        />
        <button type="submit" class="primary" disabled={!name.trim()}>
          Continue
        </button>
      </div>
      <p id="user-hint" class={refused ? "hint refused" : "hint"} role={refused ? "alert" : undefined}>
        Letters, digits, “-” and “_”, at most 64.
      </p>
    </form>
  );
}
