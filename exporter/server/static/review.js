// The review page: keys, buttons and selection. The server draws everything; this makes it fast.
import { send } from "./decisions.js";
import { Queue } from "./queue.js";
import { say, toast } from "./said.js";

/** @typedef {"accepted" | "pending" | "rejected"} Status */
/** Cards that one deed decided, less those that came back. @typedef {{cards: HTMLElement[], status: Status, sent: Promise<Set<HTMLElement>>}} Deed */

const section = /** @type {HTMLElement | null} */ (document.getElementById("queue"));
if (section) start(new Queue(section));

/** @param {Queue} queue */
function start(queue) {
  /** @type {Deed[]} */
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
   * Decide cards: they leave at once, and come back if the server says no.
   * @param {HTMLElement[]} cards @param {Status} status @param {string} [label]
   */
  function decide(cards, status, label) {
    const open = cards.filter((card) => card.dataset.status !== status || label !== undefined);
    if (!open.length) return cards.length ? say(`It is ${status} already.`) : undefined;
    closeRelabel();
    queue.take(open, status);
    done.push({ cards: open, status, sent: deliver(open, status, label) });
    const what = open.length === 1 ? shortened(label ?? open[0].dataset.said) : `${open.length} corrections`;
    toast(`${status === "accepted" ? "Accepted" : status === "rejected" ? "Rejected" : "Pending again"}: ${what}`, true);
  }

  /**
   * Send a decision; the cards that the server took. The others come back with the reason.
   * @param {HTMLElement[]} cards @param {Status} status @param {string} [label]
   * @returns {Promise<Set<HTMLElement>>}
   */
  async function deliver(cards, status, label) {
    const results = await send(cards, status, label);
    const taken = new Set(cards.filter((_, place) => results[place].taken));
    for (const deed of done) deed.cards = deed.cards.filter((card) => !cards.includes(card) || taken.has(card));
    /** @type {string[]} */
    const failures = [];
    cards.forEach((card, place) => {
      const { known, gone, detail } = results[place];
      if (taken.has(card)) return queue.settle(card, known);
      failures.push(detail);
      if (gone) queue.forget(card);
      else queue.bringBack(card, known?.status, detail);
    });
    const many = failures.length > 1 ? `${failures.length} came back: ` : "";
    if (failures.length) toast(`${many}${failures[0]}`, done.some((deed) => deed.cards.length));
    return taken;
  }

  /** Take back the last decision; what the server did not take needs no taking back. */
  async function undo() {
    let deed = done.pop();
    while (deed && !deed.cards.length) deed = done.pop();
    if (!deed) return say("There is nothing to undo.");
    const { cards } = deed;
    queue.bringBackAll(cards);
    toast(`Taken back: ${cards.length === 1 ? shortened(cards[0].dataset.predicted) : cards.length}`, done.length > 0);
    const taken = await deed.sent;
    await deliver(cards.filter((card) => taken.has(card)), "pending");
  }

  /** @param {HTMLElement[]} cards */
  function openRelabel(cards) {
    if (!cards.length) return;
    relabelled = cards;
    const many = queue.selected.size > 0 && cards.length === queue.selected.size;
    const input = field(form, "right");
    input.value = "";
    input.setAttribute("list", `labels-${cards[0].dataset.place}`);
    if (many) element("bulk").append(form);
    else cards[0].querySelector(".decide")?.after(form);
    input.focus();
  }

  function closeRelabel() {
    if (!form.isConnected) return;
    const had = form.contains(document.activeElement);
    form.remove();
    if (had) queue.focus();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const label = field(form, "right").value.trim();
    const cards = relabelled;
    closeRelabel();
    if (label) decide(cards, "accepted", label);
  });

  document.addEventListener("submit", (event) => {
    const decided = /** @type {HTMLElement} */ (event.target).closest("form.decide");
    const button = /** @type {SubmitEvent} */ (event).submitter;
    const card = queue.of(decided);
    if (!decided || !card || !(button instanceof HTMLButtonElement)) return;
    event.preventDefault();
    decide([card], /** @type {Status} */ (button.value));
  });

  document.addEventListener("click", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    const card = queue.of(target);
    const button = target.closest("button");
    const what = button?.dataset.do;
    if (button?.id === "undo") undo();
    else if (button?.id === "keys-open") keys.showModal();
    else if (what === "cancel") closeRelabel();
    else if (what === "clear") queue.clear();
    else if (what === "relabel") openRelabel(card ? [card] : [...queue.selected]);
    else if (what === "accepted" || what === "rejected") decide([...queue.selected], what);
    else if (card && target.closest(".select")) {
      if (target instanceof HTMLInputElement) queue.select(card, target.checked);
    } else if (card && !target.closest("a, button, input, summary, label, .whole")) queue.focus(card);
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
    a: () => decide(queue.chosen(), "accepted"),
    r: () => decide(queue.chosen(), "rejected"),
    l: () => openRelabel(queue.chosen()),
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
    if (arrow && target.closest(".wide, .whole, summary")) return; // these scroll
    const command = commands[event.key];
    if (!command) return;
    event.preventDefault();
    command();
  });

  queue.focusFirst();
}

/** @param {string} [text] */
function shortened(text = "") {
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
