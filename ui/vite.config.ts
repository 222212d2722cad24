import { defineConfig } from "vitest/config";

/** The gateway that `npm run dev` talks to. */
const gateway = "http://127.0.0.1:8080";

export default defineConfig({
  base: "./",
  server: { proxy: { "/api": { target: gateway, ws: true } } },
  build: {
    target: "es2022",
    // No inline script (the polyfill) and no data: assets, so that the page's CSP can stay strict.
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    // The licences of what is bundled travel with it.
    license: { fileName: "licenses.md" },
    reportCompressedSize: false,
  },
  test: { include: ["test/**/*.test.ts"], environment: "node" },
});
