// Leases: no other reviewer is given the cards of this page while it is in use.

const BATCH = 1000; // corrections in one request
const RENEWALS = 3; // in the time of a lease

/** @typedef {import("./queue.js").Queue} Queue */

/**
 * Renew the leases of a page's cards while somebody uses it, and give them back when it is closed.
 * @param {Queue} queue @param {number} seconds of a lease
 */
export function keepLeases(queue, seconds) {
  let used = false;
  for (const event of ["keydown", "pointerdown", "scroll"]) {
    addEventListener(event, () => (used = true), { capture: true, passive: true });
  }
  setInterval(() => {
    if (used) renew(queue);
    used = false;
  }, (seconds * 1000) / RENEWALS);
  addEventListener("pagehide", () => giveBack(queue.cards(), queue.expires));
  addEventListener("pageshow", (event) => {
    if (event.persisted) renew(queue); // the page was left and is shown again
  });
}

/**
 * Give cards back, so that other reviewers get them.
 * @param {HTMLElement[]} cards @param {string} [expires] leaves leases that were taken later, by the page that follows
 */
export function giveBack(cards, expires) {
  for (const ids of batches(cards)) change({ release: ids, expires }).catch(() => {}); // they expire
}

/** Renew the leases, and remove the cards that another reviewer was given meanwhile. @param {Queue} queue */
async function renew(queue) {
  const cards = queue.cards().filter((card) => card.dataset.status === "pending");
  for (const ids of batches(cards)) {
    try {
      const response = await change({ hold: ids });
      if (!response.ok) continue;
      const { held, expires } = await response.json();
      queue.expires = expires;
      queue.lose(cards.filter((card) => ids.includes(card.dataset.id) && !held.includes(card.dataset.id)));
    } catch {
      return; // the next renewal may succeed; decisions are safe without a lease
    }
  }
}

/** @param {HTMLElement[]} cards @returns {(string | undefined)[][]} */
function batches(cards) {
  const ids = cards.filter((card) => card.dataset.status === "pending").map((card) => card.dataset.id);
  return Array.from({ length: Math.ceil(ids.length / BATCH) }, (_, index) => ids.slice(index * BATCH, (index + 1) * BATCH));
}

/** @param {object} body @returns {Promise<Response>} */
function change(body) {
  const headers = { "Content-Type": "application/json" };
  // A request of a page that is closed goes on.
  return fetch("/v1/corrections/leases", { method: "PUT", headers, body: JSON.stringify(body), keepalive: true });
}
