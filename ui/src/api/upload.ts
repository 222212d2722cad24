/** Sends one file as a raw body. XMLHttpRequest, because fetch reports no upload progress. */

import { apiUrl, type Api } from "./client";
import { ApiError, offlineProblem, problemFromBody } from "./problem";
import type { Slide } from "./types";

export interface Upload {
  done: Promise<Slide>;
  abort: () => void;
}

export function upload(api: Api, file: File, onSent: (bytes: number) => void): Upload {
  const request = new XMLHttpRequest();
  const done = new Promise<Slide>((resolve, reject) => {
    request.open("POST", apiUrl(`slides?filename=${encodeURIComponent(file.name)}`));
    for (const [name, value] of Object.entries(api.headers())) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => onSent(event.loaded);
    request.upload.onload = () => onSent(file.size);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) {
        resolve(JSON.parse(request.responseText) as Slide);
      } else {
        reject(new ApiError(problemFromBody(request.status, request.statusText, request.responseText)));
      }
    };
    request.onerror = () => reject(new ApiError(offlineProblem()));
    request.onabort = () => reject(new DOMException("The upload was cancelled.", "AbortError"));
    request.send(file);
  });
  return { done, abort: () => request.abort() };
}
