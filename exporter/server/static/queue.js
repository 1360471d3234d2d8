// The cards on the page: which is current, which are selected, which have left, and where more come from.
import { say } from "./said.js";

const AHEAD = 1500; // pixels below the screen within which cards should be there
const NEAR = 15; // cards before the end at which the next page is fetched

export class Queue {
  /** @param {HTMLElement} section */
  constructor(section) {
    this.status = section.dataset.status;
    this.list = /** @type {HTMLElement} */ (section.querySelector("#cards"));
    /** @type {Set<HTMLElement>} */
    this.selected = new Set();
    /** @type {HTMLElement | null} */
    this.current = null;
    /** @type {HTMLElement | null} */
    this.anchor = null;
    /** Where cards that left stood: what came behind them. @type {Map<HTMLElement, {item: Element, mark: Comment}>} */
    this.left = new Map();
    this.loading = false;
    this.enliven(this.list);
    this.list.addEventListener("focusin", (event) => {
      const card = this.of(/** @type {Element} */ (event.target));
      if (card) this.setCurrent(card);
    });
    const next = this.next();
    if (next) new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.more(), { rootMargin: `${AHEAD}px` }).observe(/** @type {Element} */ (next.parentElement));
  }

  /** @param {Element | null} target @returns {HTMLElement | null} */
  of(target) {
    return /** @type {HTMLElement | null} */ (target?.closest(".card") ?? null);
  }

  /** @returns {HTMLElement[]} */
  cards() {
    return [...this.list.querySelectorAll(".card")].map((card) => /** @type {HTMLElement} */ (card));
  }

  /** What works only with a script shows now. @param {ParentNode} where */
  enliven(where) {
    for (const hidden of where.querySelectorAll(".card input[type=checkbox], .card [data-do=relabel]")) {
      /** @type {HTMLElement} */ (hidden).hidden = false;
    }
  }

  /** @param {HTMLElement} card */
  setCurrent(card) {
    if (this.current) this.current.tabIndex = -1;
    this.current = card;
    card.tabIndex = 0;
  }

  focusFirst() {
    const first = this.cards()[0];
    if (!first) return;
    this.setCurrent(first);
    if (document.activeElement === document.body && !location.hash) first.focus({ preventScroll: true });
  }

  /** @param {HTMLElement | null} [card] */
  focus(card = this.current) {
    if (!card?.isConnected) card = this.cards()[0] ?? null;
    card?.focus({ preventScroll: true });
    card?.scrollIntoView({ block: "nearest" });
  }

  /** @param {number} step */
  move(step) {
    const cards = this.cards();
    const place = this.current ? cards.indexOf(this.current) : -1;
    const inside = this.current?.contains(document.activeElement);
    const next = inside || step < 0 ? cards[place + step] : (this.current ?? cards[0]);
    if (next) this.focus(next);
    else say(step > 0 ? (this.next() ? "More are on their way." : "This is the last one.") : "This is the first one.");
    if (place + step > cards.length - NEAR) this.more();
  }

  /** The cards that a key decides: the selected ones, or the current one. @returns {HTMLElement[]} */
  chosen() {
    if (this.selected.size) return this.cards().filter((card) => this.selected.has(card));
    return this.current?.isConnected ? [this.current] : [];
  }

  /** @param {HTMLElement} card @param {boolean} on */
  select(card, on) {
    if (on) this.selected.add(card);
    else this.selected.delete(card);
    this.anchor = card;
    card.classList.toggle("selected", on);
    const box = /** @type {HTMLInputElement | null} */ (card.querySelector(".select input"));
    if (box) box.checked = on;
    const bulk = /** @type {HTMLElement} */ (document.getElementById("bulk"));
    bulk.hidden = !this.selected.size;
    const text = `${this.selected.size} selected`;
    /** @type {HTMLElement} */ (document.getElementById("bulk-count")).textContent = text;
    say(text);
  }

  toggle() {
    if (this.current?.isConnected) this.select(this.current, !this.selected.has(this.current));
  }

  selectUpTo() {
    const cards = this.cards();
    const [from, to] = [this.anchor ?? this.current, this.current].map((card) => (card ? cards.indexOf(card) : -1));
    if (from < 0 || to < 0) return;
    for (const card of cards.slice(Math.min(from, to), Math.max(from, to) + 1)) this.select(card, true);
  }

  selectAll() {
    const cards = this.cards();
    const on = cards.some((card) => !this.selected.has(card));
    for (const card of cards) this.select(card, on);
  }

  clear() {
    for (const card of [...this.selected]) this.select(card, false);
  }

  /**
   * Cards that are decided leave, where the page shows another status only; the next one becomes current.
   * @param {HTMLElement[]} cards @param {string} status
   */
  take(cards, status) {
    const all = this.cards();
    const leaving = new Set(cards);
    const place = this.current ? all.indexOf(this.current) : 0;
    const heir = all.slice(place).find((card) => !leaving.has(card)) ?? all.slice(0, place).findLast((card) => !leaving.has(card));
    const focused = !document.activeElement || document.activeElement === document.body || this.list.contains(document.activeElement) || document.activeElement.closest(".bulk");
    for (const card of cards) {
      this.select(card, false);
      this.count(card.dataset.status, -1);
      this.count(status, 1);
      card.dataset.before = card.dataset.status;
      this.mark(card, status);
      if (this.status !== "all" && this.status !== status) this.remove(card);
    }
    this.emptied();
    if (all.length - cards.length < NEAR) this.more();
    if (heir && focused && !this.current?.isConnected) this.focus(heir);
  }

  /** @param {HTMLElement} card */
  remove(card) {
    const item = card.closest("li") ?? card;
    const mark = document.createComment("");
    item.replaceWith(mark);
    this.left.set(card, { item, mark });
  }

  /** The server took it: the label is what it says. @param {HTMLElement} card @param {import("./decisions.js").Known | undefined} known */
  settle(card, known) {
    const label = card.querySelector(".is .cut, .is:not(:has(.cut))");
    if (known && label && String(known.label).length <= 200) label.textContent = card.dataset.said = String(known.label);
  }

  /** @param {HTMLElement} card @param {string} status */
  mark(card, status) {
    card.dataset.status = status;
    for (const old of card.querySelectorAll(".decided")) old.remove();
    if (status !== "pending") {
      const badge = Object.assign(document.createElement("span"), { className: `decided status ${status}`, textContent: status });
      (card.querySelector(".meta") ?? card.querySelector("time")?.parentElement)?.append(badge);
    }
    for (const button of card.querySelectorAll("button[name=status]")) {
      const decides = /** @type {HTMLButtonElement} */ (button);
      decides.hidden = decides.value === status;
    }
    this.notice(card, "");
  }

  /** @param {HTMLElement} card @param {string} text */
  notice(card, text) {
    const notice = /** @type {HTMLElement} */ (card.querySelector(".notice"));
    notice.textContent = text;
    notice.hidden = !text;
  }

  /**
   * A decision that was not taken: the card stands where it stood, and says why.
   * @param {HTMLElement} card @param {string | undefined} now its status, where the server said it @param {string} detail
   */
  bringBack(card, now, detail) {
    now ??= card.dataset.before ?? "pending";
    this.count(card.dataset.status, -1);
    this.count(now, 1);
    this.putBack(card);
    this.mark(card, now);
    this.notice(card, detail);
  }

  /** Cards whose decision is taken back. @param {HTMLElement[]} cards */
  bringBackAll(cards) {
    for (const card of cards) {
      card.dataset.before = card.dataset.status;
      this.count(card.dataset.status, -1);
      this.count("pending", 1);
      this.mark(card, "pending");
      if (this.status === "all" || this.status === "pending") this.putBack(card);
      else if (card.isConnected) this.remove(card);
    }
    if (cards[0]?.isConnected) this.focus(cards[0]);
    this.emptied();
  }

  /** It exists no more. @param {HTMLElement} card */
  forget(card) {
    this.count(card.dataset.status, -1);
    this.left.delete(card);
    (card.closest("li") ?? card).remove();
    this.emptied();
  }

  /** @param {HTMLElement} card */
  putBack(card) {
    const place = this.left.get(card);
    this.left.delete(card);
    if (place) {
      place.mark.replaceWith(place.item);
      card.classList.remove("back");
      requestAnimationFrame(() => card.classList.add("back"));
    }
    this.emptied();
  }

  /** @param {string | undefined} status @param {number} step */
  count(status, step) {
    const shown = document.querySelector(`[data-count="${status}"]`);
    if (!shown) return;
    const number = Number((shown.textContent ?? "").replaceAll(",", "")) + step;
    shown.textContent = Math.max(number, 0).toLocaleString("en");
  }

  emptied() {
    const empty = !this.list.querySelector(".card") && !this.next();
    /** @type {HTMLElement} */ (document.getElementById("empty")).hidden = !empty;
    this.list.closest("table")?.toggleAttribute("hidden", empty);
  }

  /** @returns {HTMLAnchorElement | null} */
  next() {
    return /** @type {HTMLAnchorElement | null} */ (document.getElementById("next"));
  }

  /** Fetch the next page and put its cards behind the others. */
  async more() {
    const link = this.next();
    if (!link || this.loading) return;
    this.loading = true;
    let short = false;
    try {
      const answer = await fetch(link.href, { signal: AbortSignal.timeout(15000) });
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const known = new Set([...this.cards(), ...this.left.keys()].map((card) => card.dataset.id));
      const none = !this.list.querySelector(".card");
      for (const card of page.querySelectorAll("#cards .card")) {
        if (known.has(/** @type {HTMLElement} */ (card).dataset.id)) continue;
        this.list.append(document.adoptNode(card.closest("li") ?? card));
      }
      this.enliven(this.list);
      const following = page.getElementById("next");
      if (following) link.href = /** @type {HTMLAnchorElement} */ (following).href;
      else link.parentElement?.remove();
      short = link.isConnected && link.getBoundingClientRect().top < innerHeight + AHEAD;
      if (none && (document.activeElement === document.body || !document.activeElement)) this.focus(this.cards()[0]);
    } catch {
      link.textContent = "Next page (it did not come by itself)";
    } finally {
      this.loading = false;
      this.emptied();
    }
    if (short) await this.more(); // few cards came: their inputs are large
  }
}
