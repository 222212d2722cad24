import { expect, test, vi } from "vitest";
import { persist } from "../src/api/persist";
import { ApiError, offlineProblem, problemFromBody } from "../src/api/problem";

test("asks again while the server is away, says so, and takes it back", async () => {
  vi.useFakeTimers();
  const answers = [new ApiError(offlineProblem()), new ApiError(problemFromBody(503, "", "")), "here"];
  const heard: (string | null)[] = [];
  const asked = persist(
    async () => {
      const answer = answers.shift();
      if (answer instanceof Error) throw answer;
      return answer;
    },
    new AbortController().signal,
    (problem) => heard.push(problem && problem.code),
  );
  await vi.runAllTimersAsync();
  expect(await asked).toBe("here");
  expect(heard).toEqual(["offline", "http-503", null]);
  vi.useRealTimers();
});

test("does not ask again for what is not there", async () => {
  const ask = vi.fn(async () => {
    throw new ApiError(problemFromBody(404, "", ""));
  });
  await expect(persist(ask, new AbortController().signal)).rejects.toBeInstanceOf(ApiError);
  expect(ask).toHaveBeenCalledTimes(1);
});

test("stops when nobody wants the answer any more", async () => {
  const abort = new AbortController();
  const asked = persist(
    async () => {
      throw new ApiError(offlineProblem());
    },
    abort.signal,
    () => abort.abort(),
  );
  await expect(asked).rejects.toBeDefined();
});

test("takes back what it said when nobody wants the answer any more", async () => {
  const abort = new AbortController();
  const heard: (string | null)[] = [];
  const asked = persist(
    async () => {
      throw new ApiError(offlineProblem());
    },
    abort.signal,
    (problem) => heard.push(problem && problem.code),
  );
  await vi.waitFor(() => expect(heard).toEqual(["offline"]));
  abort.abort();
  await expect(asked).rejects.toBeDefined();
  expect(heard).toEqual(["offline", null]);
});
