// The review page: keys, buttons and selection. The page works without this script, only slower.
import { parseLabel, send } from "./decisions.js";
import { announce, toast } from "./messages.js";
import { Queue } from "./queue.js";


/** @typedef {"accepted" | "pending" | "rejected"} Status */
/** One decision and its cards, without those for which it was not stored. @typedef {{cards: HTMLElement[], status: Status, sent: Promise<Set<HTMLElement>>, what: string}} Decision */

const section = /** @type {HTMLElement | null} */ (document.getElementById("queue"));
if (section) start(new Queue(section));

/** @param {Queue} queue */
function start(queue) {
  /** @type {Decision[]} */
  const done = [];
  const relabelling = /** @type {HTMLTemplateElement} */ (element("relabel-form")).content.firstElementChild;
  const form = /** @type {HTMLFormElement} */ (relabelling);
  const keys = /** @type {HTMLDialogElement} */ (element("keys"));
  /** @type {HTMLElement[]} */
  let relabelled = [];

  const wide = matchMedia("(min-width: 56.01rem)").matches;
  for (const side of document.querySelectorAll("details[data-wide]")) /** @type {HTMLDetailsElement} */ (side).open = wide;
  element("keys-open").hidden = false;

  /**
   * Decide cards: they are removed at once, and restored if the server does not store the decision.
   * @param {HTMLElement[]} cards @param {Status} status @param {string} [label]
   */
  function decide(cards, status, label) {
    const open = cards.filter((card) => card.dataset.status !== status || label !== undefined || "suspect" in card.dataset);
    if (!open.length) return cards.length ? announce(`It is already ${status}.`) : undefined;
    if (status === "accepted" && label === undefined && open.every((card) => "unlabelled" in card.dataset)) return openRelabel(open);
    closeRelabel();
    const isNew = status === "accepted" && open.some((card) => (label === undefined ? "new" in card.dataset : isUnknown(card, label)));
    const many = isNew && label !== undefined ? `${shorten(label)}, ${open.length} corrections` : `${open.length} corrections`;
    const what = open.length === 1 ? shorten(label ?? open[0].dataset.corrected) : many;
    const keeps = label === undefined && open.every((card) => card.dataset.status === status);
    queue.applyDecision(open, status);
    const sent = deliver(open, status, label);
    if (keeps) return toast(`Kept: ${what}`, done.length > 0); // nothing has changed that could be undone
    done.push({ cards: open, status, sent, what });
    toast(`${isNew ? "Accepted with a new label" : status === "accepted" ? "Accepted" : status === "rejected" ? "Rejected" : "Pending again"}: ${what}`, true);
  }

  /**
   * Send a decision, and return the cards for which it was stored. The others are restored with the reason.
   * @param {HTMLElement[]} cards @param {Status} status @param {string} [label]
   * @returns {Promise<Set<HTMLElement>>}
   */
  async function deliver(cards, status, label) {
    const results = await send(cards, status, label);
    const stored = new Set(cards.filter((_, index) => results[index].stored));
    for (const decision of done) {
      decision.cards = decision.cards.filter((card) => !cards.includes(card) || stored.has(card));
    }
    /** @type {string[]} */
    const failures = [];
    cards.forEach((card, index) => {
      const { correction, missing, detail } = results[index];
      if (stored.has(card)) return queue.showLabel(card, correction);
      failures.push(detail);
      if (missing) queue.forget(card);
      else queue.restore(card, correction?.status, detail);
    });
    const many = failures.length > 1 ? `${failures.length} decisions failed: ` : "";
    if (failures.length) toast(`${many}${failures[0]}`, done.some((decision) => decision.cards.length));
    return stored;
  }

  /** Undo the last decision, for the cards for which it was stored. */
  async function undo() {
    let decision = done.pop();
    while (decision && !decision.cards.length) decision = done.pop();
    if (!decision) return announce("There is nothing to undo.");
    const { cards } = decision;
    queue.restoreAll(cards);
    toast(`Undone: ${cards.length === 1 ? decision.what : `${cards.length} corrections`}`, done.length > 0);
    const stored = await decision.sent;
    await deliver(cards.filter((card) => stored.has(card)), "pending");
  }

  /** Remove pending cards from the page; they stay pending. @param {HTMLElement[]} cards */
  function skip(cards) {
    const open = cards.filter((card) => card.dataset.status === "pending");
    if (!open.length) return;
    closeRelabel();
    queue.skip(open);
    toast(`Skipped: ${open.length === 1 ? shorten(open[0].dataset.corrected) : `${open.length} corrections`}`, done.length > 0);
  }

  /** @param {HTMLElement[]} cards */
  function openRelabel(cards) {
    if (!cards.length) return;
    relabelled = cards;
    const isSelection = queue.selected.size > 0 && cards.length === queue.selected.size;
    const input = field(form, "label");
    input.value = "";
    input.setAttribute("list", `labels-${cards[0].dataset.modelIndex}`);
    if (isSelection) element("bulk").append(form);
    else cards[0].querySelector(".decide")?.after(form);
    input.focus();
  }

  function closeRelabel() {
    if (!form.isConnected) return;
    const hadFocus = form.contains(document.activeElement);
    form.remove();
    if (hadFocus) queue.focus();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const label = field(form, "label").value.trim();
    const cards = relabelled;
    closeRelabel();
    if (label) decide(cards, "accepted", label);
  });

  document.addEventListener("submit", (event) => {
    const decideForm = /** @type {HTMLElement} */ (event.target).closest("form.decide");
    const button = /** @type {SubmitEvent} */ (event).submitter;
    const card = queue.cardOf(decideForm);
    if (!decideForm || !card || !(button instanceof HTMLButtonElement)) return;
    event.preventDefault();
    decide([card], /** @type {Status} */ (button.value), button.dataset.label);
  });

  document.addEventListener("click", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    const card = queue.cardOf(target);
    const alike = /** @type {HTMLAnchorElement | null} */ (target.closest("a.alike"));
    if (card && alike && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      queue.showAlike(card, alike);
    }
    const button = target.closest("button");
    const action = button?.dataset.do;
    if (button?.id === "undo") undo();
    else if (button?.id === "keys-open") keys.showModal();
    else if (action === "cancel") closeRelabel();
    else if (action === "clear") queue.clear();
    else if (action === "skip") skip(card ? [card] : [...queue.selected]);
    else if (action === "relabel") openRelabel(card ? [card] : [...queue.selected]);
    else if (action === "accepted" || action === "rejected") decide([...queue.selected], action);
    else if (card && target.closest(".select")) {
      if (target instanceof HTMLInputElement) queue.select(card, target.checked);
    } else if (card && !target.closest("a, button, input, summary, label, .text-content")) queue.focus(card);
  });

  document.getElementById("filters")?.addEventListener("submit", (event) => {
    for (const input of /** @type {HTMLFormElement} */ (event.target).elements) {
      if ((input instanceof HTMLInputElement || input instanceof HTMLSelectElement) && !input.value) input.disabled = true;
    }
  });
  addEventListener("pageshow", () => {
    for (const input of document.querySelectorAll("#filters :disabled")) /** @type {HTMLInputElement} */ (input).disabled = false;
  });

  /** @type {Record<string, () => void>} */
  const commands = {
    j: () => queue.move(1),
    ArrowDown: () => queue.move(1),
    k: () => queue.move(-1),
    ArrowUp: () => queue.move(-1),
    a: () => decide(queue.targets(), "accepted"),
    r: () => decide(queue.targets(), "rejected"),
    l: () => openRelabel(queue.targets()),
    s: () => skip(queue.targets()),
    u: undo,
    x: () => queue.toggle(),
    X: () => queue.selectUpTo(),
    "*": () => queue.selectAll(),
    "/": search,
    "?": () => keys.showModal(),
    Escape: () => queue.clear(),
  };

  function search() {
    const input = /** @type {HTMLInputElement | null} */ (document.querySelector("input[name=q]"));
    if (!input) return;
    /** @type {HTMLDetailsElement} */ (input.closest("details")).open = true;
    input.focus();
    input.select();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || keys.open) return;
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.matches("input:not([type=checkbox]), select, textarea")) {
      if (event.key === "Escape" && form.contains(target)) closeRelabel();
      else if (event.key === "Escape") target.blur();
      return;
    }
    const arrow = event.key.startsWith("Arrow");
    if (arrow && target.closest(".wide, .text-content, summary")) return; // arrow keys scroll these
    const command = commands[event.key];
    if (!command) return;
    event.preventDefault();
    command();
  });

  queue.focusFirst();
}

/**
 * Whether a label is not a number where the others are, or none of the model's labels in training, if all are known.
 * @param {HTMLElement} card @param {string} label
 */
function isUnknown(card, label) {
  if (card.dataset.labelType === "number" && typeof parseLabel(label, "number") === "string") return true;
  const known = document.getElementById(`labels-${card.dataset.modelIndex}`);
  if (known?.dataset.trained === undefined) return false;
  const trained = [...known.children].slice(0, Number(known.dataset.trained)); // the others are labels of corrections
  return !trained.some((option) => option.getAttribute("value") === label);
}

/** @param {string} [text] */
function shorten(text = "") {
  return text.length > 40 ? `${text.slice(0, 39)}…` : text;
}

/** @param {string} id @returns {HTMLElement} */
function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {HTMLFormElement} form @param {string} name @returns {HTMLInputElement} */
function field(form, name) {
  return /** @type {HTMLInputElement} */ (form.elements.namedItem(name));
}
