// The page's part of working without a network; the rest is in sw.ts.

const PATIENCE = 2000; // milliseconds for a service worker to start, which takes a tenth of that

interface Offline {
  isControlled: Promise<void>; // from here on the service worker keeps what is loaded
  keep: () => Promise<void>;
}

/** Start the service worker; `keep` makes it keep what was loaded before it was there, and `others`. */
export function keepForOffline(others: string[]): Offline {
  const loaded = (): string[] => performance.getEntriesByType("resource").map(({ name }) => name);
  const isFirst = !navigator.serviceWorker?.controller;
  const isOffered = import.meta.env.PROD && "serviceWorker" in navigator;
  const keep = async (): Promise<void> => {
    if (!isFirst || !isOffered) return;
    const own = [location.pathname, ...loaded(), ...others];
    await Promise.all(own.map((address) => fetch(address).catch(() => undefined))); // what fails is loaded when it is used
  };
  return { isControlled: isOffered && isFirst ? controlled() : Promise.resolve(), keep };
}

async function controlled(): Promise<void> {
  const container = navigator.serviceWorker;
  const taken = new Promise<void>((resolve) => container.addEventListener("controllerchange", () => resolve()));
  const late = new Promise<void>((resolve) => setTimeout(resolve, PATIENCE));
  try {
    await container.register("sw.js");
    await Promise.race([taken, late]);
  } catch {
    return; // Some browsers allow none, in private windows or without HTTPS; the page works all the same.
  }
}
