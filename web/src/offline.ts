// The page's part of working without a network; the rest is in sw.ts.

/**
 * Start the service worker and let it keep `files`; once more when a new version of it, with an empty cache, takes over.
 *
 * `onKept` is called each time all are kept. Not before the page is ready, so that nothing is loaded later for it.
 */
export async function keepForOffline(files: string[], onKept: () => void): Promise<void> {
  if (!("serviceWorker" in navigator)) return;
  const container = navigator.serviceWorker;
  const keep = async (): Promise<void> => {
    // The service worker keeps what it hands on; most of this comes from the browser's own cache.
    const answers = await Promise.allSettled(files.map((file) => fetch(file)));
    if (answers.every((answer) => answer.status === "fulfilled" && answer.value.ok)) onKept();
  };
  container.addEventListener("controllerchange", () => void keep());
  try {
    await container.register("sw.js");
  } catch {
    return; // Some browsers allow none, in private windows or without HTTPS; the page works all the same.
  }
  if (container.controller) void keep();
}
