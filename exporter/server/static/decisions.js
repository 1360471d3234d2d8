// Send decisions to the server.

/** @typedef {{id: string, label: unknown, status: string, revision: number, reviewer: string | null}} Correction */
/** @typedef {{stored: boolean, missing?: boolean, correction?: Correction, detail: string}} Result */

const BATCH = 100; // decisions in one request
const UNREACHABLE = "The exporter does not respond. Try again.";

/** Requests are sent one after another: each needs the revision of the one before. @type {Promise<unknown>} */
let previous = Promise.resolve();

/**
 * Send a decision for some cards, and return the result of each, in their order.
 * @param {HTMLElement[]} cards
 * @param {string} status
 * @param {string} [label] as typed
 * @returns {Promise<Result[]>}
 */
export function send(cards, status, label) {
  const sent = previous.then(async () => {
    /** @type {Result[]} */
    const results = [];
    for (let start = 0; start < cards.length; start += BATCH) {
      results.push(...(await sendBatch(cards.slice(start, start + BATCH), status, label)));
    }
    return results;
  });
  previous = sent.then(
    (results) =>
      results.forEach(({ correction }, index) => {
        if (correction) cards[index].dataset.revision = String(correction.revision);
      }),
  );
  return sent;
}

/**
 * @param {HTMLElement[]} cards @param {string} status @param {string} [label]
 * @returns {Promise<Result[]>}
 */
async function sendBatch(cards, status, label) {
  const items = cards.map((card) => ({
    id: card.dataset.id,
    status,
    revision: Number(card.dataset.revision),
    ...(label === undefined ? {} : { label: parseLabel(label, card.dataset.labelType) }),
  }));
  try {
    const headers = { "Content-Type": "application/json" };
    const signal = AbortSignal.timeout(15000);
    const response = await fetch("/v1/corrections", { method: "PATCH", headers, body: JSON.stringify(items), signal });
    const body = await response.json();
    if (!response.ok) return items.map(() => ({ stored: false, detail: `No decision was stored: ${body.detail}` }));
    return body.results.map(toResult);
  } catch {
    return items.map(() => ({ stored: false, detail: UNREACHABLE }));
  }
}

/**
 * @param {{status: number, detail?: string, correction?: Correction}} response to one decision
 * @returns {Result}
 */
function toResult({ status, detail = "", correction }) {
  if (status === 200) return { stored: true, correction, detail };
  if (status === 404) return { stored: false, missing: true, detail: "The correction no longer exists." };
  if (status === 400) return { stored: false, correction, detail: "Give the correct label to accept it." };
  if (!correction) return { stored: false, detail };
  const changed = "The correction has changed, and is pending again. Decide again to change it.";
  if (correction.status === "pending") return { stored: false, correction, detail: changed };
  const reviewer = correction.reviewer ?? "Another reviewer";
  const label = correction.status === "accepted" ? ` as ${String(correction.label).slice(0, 80)}` : "";
  const text = `${reviewer} decided first: ${correction.status}${label}. Decide again to change it.`;
  return { stored: false, correction, detail: text };
}

/**
 * Convert a typed label to the type of the model's labels; a text of another form stays a text.
 * @param {string} text @param {string} [type]
 * @returns {string | number | boolean}
 */
export function parseLabel(text, type) {
  if (type === "boolean" && (text === "true" || text === "false")) return text === "true";
  if (type === "number" && /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/.test(text)) return Number(text);
  return text;
}
