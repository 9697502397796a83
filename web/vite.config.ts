import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { defaultClientConditions, defineConfig } from "vite";

/** Changes with every file that the build is made from: the service worker's cache is one version's. */
function version(): string {
  const hash = createHash("sha256");
  const made = ["src", "models"].flatMap((folder) => readdirSync(folder).sort().map((name) => `${folder}/${name}`));
  for (const file of ["index.html", "package-lock.json", "vite.config.ts", ...made]) hash.update(readFileSync(file));
  return hash.digest("hex").slice(0, 12);
}

export default defineConfig({
  base: "./", // works in any folder of a server
  define: { BUILD: JSON.stringify(version()) },
  // The runtime's own files stay as they are: its threads start from them.
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", ...defaultClientConditions] },
  worker: { format: "es" },
  build: {
    target: "es2022",
    rollupOptions: {
      input: { main: "index.html", sw: "src/sw.ts" },
      // A service worker governs the folder that it lies in.
      output: { entryFileNames: ({ name }) => (name === "sw" ? "sw.js" : "assets/[name]-[hash].js") },
    },
  },
});
