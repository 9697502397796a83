// Service worker: the page works without a network once it was loaded, and all it loads comes from its own folder.

declare const BUILD: string; // of the build, see vite.config.ts
const scope = self as unknown as ServiceWorkerGlobalScope;
const CACHE = `amd-restore-${BUILD}`;
const ASSETS = new URL("assets/", scope.registration.scope).href;

scope.addEventListener("install", (event) => event.waitUntil(scope.skipWaiting()));

scope.addEventListener("activate", (event) => {
  const clean = async (): Promise<void> => {
    const old = (await caches.keys()).filter((name) => name.startsWith("amd-restore-") && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await scope.clients.claim(); // also of the page that installed it, so that its next requests are kept
  };
  event.waitUntil(clean());
});

scope.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(scope.registration.scope)) event.respondWith(answer(request));
});

/** Files under assets/ have their content's hash in their names and never change; the page itself may have. */
async function answer(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request, { ignoreSearch: true, ignoreVary: true });
  if (kept && request.url.startsWith(ASSETS)) return kept;
  try {
    const fresh = isolated(await fetch(request));
    if (fresh.status === 200) await cache.put(request, fresh.clone());
    return fresh;
  } catch (error) {
    if (kept) return kept;
    throw error;
  }
}

/** With the headers that threads need, for servers that cannot send them. */
function isolated(response: Response): Response {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
