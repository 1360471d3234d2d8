// Decisions on their way to the server.

/** @typedef {{id: string, label: unknown, status: string, revision: number, reviewer: string | null}} Known */
/** @typedef {{taken: boolean, gone?: boolean, known?: Known, detail: string}} Result */

const MOST = 100; // decisions in one request
const ALONE = "The exporter does not answer. Try again.";

/** Decisions of the same card wait for one another: each builds on the revision before. @type {Promise<unknown>} */
let before = Promise.resolve();

/**
 * Send the decision of some cards; what became of each, in their order.
 * @param {HTMLElement[]} cards
 * @param {string} status
 * @param {string} [label] as it was typed
 * @returns {Promise<Result[]>}
 */
export function send(cards, status, label) {
  const sent = before.then(async () => {
    /** @type {Result[]} */
    const results = [];
    for (let start = 0; start < cards.length; start += MOST) {
      results.push(...(await sendSome(cards.slice(start, start + MOST), status, label)));
    }
    return results;
  });
  before = sent.then(
    (results) =>
      results.forEach((result, place) => {
        if (result.known) cards[place].dataset.revision = String(result.known.revision);
      }),
  );
  return sent;
}

/**
 * @param {HTMLElement[]} cards @param {string} status @param {string} [label]
 * @returns {Promise<Result[]>}
 */
async function sendSome(cards, status, label) {
  const items = cards.map((card) => ({
    id: card.dataset.id,
    status,
    revision: Number(card.dataset.revision),
    ...(label === undefined ? {} : { label: typed(label, card.dataset.like) }),
  }));
  try {
    const headers = { "Content-Type": "application/json" };
    const signal = AbortSignal.timeout(15000);
    const answer = await fetch("/v1/corrections", { method: "PATCH", headers, body: JSON.stringify(items), signal });
    const body = await answer.json();
    if (!answer.ok) return items.map(() => ({ taken: false, detail: `Nothing was decided: ${body.detail}` }));
    return body.results.map(result);
  } catch {
    return items.map(() => ({ taken: false, detail: ALONE }));
  }
}

/**
 * @param {{status: number, detail?: string, correction?: Known}} one what became of one decision
 * @returns {Result}
 */
function result({ status, detail = "", correction: known }) {
  if (status === 200) return { taken: true, known, detail };
  if (status === 404) return { taken: false, gone: true, detail: "It is not there any more." };
  if (!known) return { taken: false, detail };
  const who = known.reviewer ?? "Another reviewer";
  const as = known.status === "accepted" ? ` as ${String(known.label).slice(0, 80)}` : "";
  return { taken: false, known, detail: `${who} was first: ${known.status}${as}. Decide again to change it.` };
}

/**
 * A label that somebody typed, of the type that the model's labels have if it can be read as one.
 * @param {string} text @param {string} [like]
 * @returns {string | number | boolean}
 */
export function typed(text, like) {
  if (like === "boolean" && (text === "true" || text === "false")) return text === "true";
  if (like === "number" && /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/.test(text)) return Number(text);
  return text;
}
