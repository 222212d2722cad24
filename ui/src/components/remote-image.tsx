/** A picture behind the user header: fetched, shown from a blob, and let go of. */

import { useEffect, useState } from "preact/hooks";
import { persist } from "../api/persist";
import { api } from "../session";

export function RemoteImage({ path, alt }: { path: string; alt: string }) {
  const [source, setSource] = useState<string | null>(null);
  const client = api.value;
  useEffect(() => {
    const abort = new AbortController();
    let url: string | null = null;
    persist(() => client.blob(path, abort.signal), abort.signal)
      .then((blob) => {
        url = URL.createObjectURL(blob);
        setSource(url);
      })
      .catch(() => setSource(null));
    return () => {
      abort.abort();
      if (url) URL.revokeObjectURL(url);
    };
  }, [client, path]);
  return source ? <img src={source} alt={alt} /> : <span class="image-empty" role="img" aria-label={alt} />;
}
