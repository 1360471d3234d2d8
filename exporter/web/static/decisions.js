// Decisions on their way to the server.

/** @typedef {{id: string, label: unknown, status: string, revision: number, reviewer: string | null}} Known */
/** @typedef {{taken: boolean, gone?: boolean, known?: Known, detail: string}} Result */

const MOST = 100; // decisions in one request
const ALONE = "The exporter does not answer, so nothing was decided. Try again.";

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
    if (items.length === 1) {
      const { id, ...decision } = items[0];
      const answer = await patch(`/v1/corrections/${id}`, decision);
      return [result(answer.status, await answer.json())];
    }
    const answer = await patch("/v1/corrections", items);
    const body = await answer.json();
    if (!answer.ok) return items.map(() => result(answer.status, body));
    return body.results.map((/** @type {any} */ one) => result(one.status, one));
  } catch {
    return items.map(() => ({ taken: false, detail: ALONE }));
  }
}

/** @param {string} path @param {unknown} body */
function patch(path, body) {
  const headers = { "Content-Type": "application/json" };
  return fetch(path, { method: "PATCH", headers, body: JSON.stringify(body), signal: AbortSignal.timeout(15000) });
}

/**
 * @param {number} code @param {any} body a correction, or a problem that may hold one
 * @returns {Result}
 */
function result(code, body) {
  if (code === 200) return { taken: true, known: body.correction ?? body, detail: "" };
  const known = body.correction;
  if (code === 409 && known) {
    const who = known.reviewer ?? "Another reviewer";
    const label = known.status === "accepted" ? ` as ${String(known.label).slice(0, 80)}` : "";
    return { taken: false, known, detail: `${who} was first: ${known.status}${label}. Decide again to change it.` };
  }
  if (code === 404) return { taken: false, gone: true, detail: "It is not there any more." };
  return { taken: false, detail: `Nothing was decided: ${body.detail ?? code}` };
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
