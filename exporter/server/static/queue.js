// The cards on the page: the current one, the selected ones, the removed ones, and the next pages.
import { fetchPage } from "./page.js";
import { announce } from "./messages.js";

const AHEAD = 1500; // pixels below the screen within which the next page is loaded
const NEAR = 15; // cards before the end from which the next page is loaded

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
    /** Removed cards, each with the comment that marks its position. @type {Map<HTMLElement, {item: Element, mark: Comment}>} */
    this.removed = new Map();
    this.loading = false;
    this.showControls(this.list);
    this.list.addEventListener("focusin", (event) => {
      const card = this.cardOf(/** @type {Element} */ (event.target));
      if (card) this.setCurrent(card);
    });
    const next = this.next();
    if (next) new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && this.loadMore(), { rootMargin: `${AHEAD}px` }).observe(/** @type {Element} */ (next.parentElement));
  }

  /** @param {Element | null} target @returns {HTMLElement | null} */
  cardOf(target) {
    return /** @type {HTMLElement | null} */ (target?.closest(".card") ?? null);
  }

  /** @returns {HTMLElement[]} */
  cards() {
    return [...this.list.querySelectorAll(".card")].map((card) => /** @type {HTMLElement} */ (card));
  }

  /** Show the controls that need this script. @param {ParentNode} parent */
  showControls(parent) {
    for (const hidden of parent.querySelectorAll(".card input[type=checkbox], .card [data-do=relabel], .card[data-status=pending] [data-do=skip]")) {
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
    const index = this.current ? cards.indexOf(this.current) : -1;
    const inside = this.current?.contains(document.activeElement);
    const next = inside || step < 0 ? cards[index + step] : (this.current ?? cards[0]);
    if (next) this.focus(next);
    else announce(step > 0 ? (this.next() ? "Loading more." : "This is the last one.") : "This is the first one.");
    if (index + step > cards.length - NEAR) this.loadMore();
  }

  /** The cards to which a key applies: the selected ones, or the current one. @returns {HTMLElement[]} */
  targets() {
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
    announce(text);
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
   * Mark decided cards, remove them if the page shows another status, and make the next card current.
   * @param {HTMLElement[]} cards @param {string} status
   */
  applyDecision(cards, status) {
    this.leave(cards, (card) => {
      this.count(card, card.dataset.status, -1);
      this.count(card, status, 1);
      card.dataset.previousStatus = card.dataset.status;
      this.mark(card, status);
      if (this.status !== "all" && this.status !== status) this.remove(card);
      else this.settle(card);
    });
  }

  /** Remove cards that stay as they are. @param {HTMLElement[]} cards */
  skip(cards) {
    this.leave(cards, (card) => (card.closest("li") ?? card).remove());
  }

  /**
   * Do something with cards that may remove them, and make the next card current.
   * @param {HTMLElement[]} cards @param {(card: HTMLElement) => void} change
   */
  leave(cards, change) {
    const all = this.cards();
    const leaving = new Set(cards);
    const index = this.current ? all.indexOf(this.current) : 0;
    const next = all.slice(index).find((card) => !leaving.has(card)) ?? all.slice(0, index).findLast((card) => !leaving.has(card));
    const focused = !document.activeElement || document.activeElement === document.body || this.list.contains(document.activeElement) || document.activeElement.closest(".bulk");
    for (const card of cards) {
      this.select(card, false);
      change(card);
    }
    this.updateEmpty();
    if (all.length - cards.length < NEAR) this.loadMore();
    if (next && focused && !this.current?.isConnected) this.focus(next);
  }

  /** A suspect label that was decided again is one no more. @param {HTMLElement} card */
  settle(card) {
    if (!("suspect" in card.dataset)) return;
    delete card.dataset.suspect;
    card.querySelector(".suspect")?.remove();
    this.mark(card, card.dataset.status ?? "");
  }

  /** @param {HTMLElement} card */
  remove(card) {
    const item = card.closest("li") ?? card;
    const mark = document.createComment("");
    item.replaceWith(mark);
    this.removed.set(card, { item, mark });
  }

  /** Show the stored label of a decided card. @param {HTMLElement} card @param {import("./decisions.js").Correction | undefined} correction */
  showLabel(card, correction) {
    const label = card.querySelector(".corrected .cut, .corrected:not(:has(.cut))");
    if (correction && label && String(correction.label).length <= 200) {
      label.textContent = card.dataset.corrected = String(correction.label);
    }
  }

  /** @param {HTMLElement} card @param {string} status */
  mark(card, status) {
    card.dataset.status = status;
    for (const badge of card.querySelectorAll(".decided")) badge.remove();
    if (status !== "pending") {
      const badge = Object.assign(document.createElement("span"), { className: `decided status ${status}`, textContent: status });
      (card.querySelector(".meta") ?? card.querySelector("time")?.parentElement)?.append(badge);
    }
    for (const button of card.querySelectorAll("button[name=status]")) {
      const decision = /** @type {HTMLButtonElement} */ (button);
      decision.hidden = decision.value === status && !("suspect" in card.dataset);
    }
    const skip = /** @type {HTMLElement | null} */ (card.querySelector("[data-do=skip]"));
    if (skip) skip.hidden = status !== "pending";
    this.notice(card, "");
  }

  /** @param {HTMLElement} card @param {string} text */
  notice(card, text) {
    const notice = /** @type {HTMLElement} */ (card.querySelector(".notice"));
    notice.textContent = text;
    notice.hidden = !text;
  }

  /**
   * Restore a card whose decision was not stored, with the reason.
   * @param {HTMLElement} card @param {string | undefined} status as the server has it, if known @param {string} detail
   */
  restore(card, status, detail) {
    status ??= card.dataset.previousStatus ?? "pending";
    this.count(card, card.dataset.status, -1);
    this.count(card, status, 1);
    this.putBack(card);
    this.mark(card, status);
    this.notice(card, detail);
  }

  /** Restore cards whose decision is undone. @param {HTMLElement[]} cards */
  restoreAll(cards) {
    for (const card of cards) {
      card.dataset.previousStatus = card.dataset.status;
      this.count(card, card.dataset.status, -1);
      this.count(card, "pending", 1);
      this.mark(card, "pending");
      if (this.status === "all" || this.status === "pending") this.putBack(card);
      else if (card.isConnected) this.remove(card);
    }
    if (cards[0]?.isConnected) this.focus(cards[0]);
    this.updateEmpty();
  }

  /** Remove a card whose correction no longer exists. @param {HTMLElement} card */
  forget(card) {
    this.count(card, card.dataset.status, -1);
    this.removed.delete(card);
    (card.closest("li") ?? card).remove();
    this.updateEmpty();
  }

  /** @param {HTMLElement} card */
  putBack(card) {
    const position = this.removed.get(card);
    this.removed.delete(card);
    if (position) {
      position.mark.replaceWith(position.item);
      card.classList.remove("back");
      requestAnimationFrame(() => card.classList.add("back"));
    }
    this.updateEmpty();
  }

  /** @param {HTMLElement} card @param {string | undefined} status @param {number} step */
  count(card, status, step) {
    const counter = document.querySelector(`[data-count="${status}"]`);
    if (!counter) return;
    if (status !== "pending") this.progress(step);
    const number = Number((counter.textContent ?? "").replaceAll(",", "")) + step;
    counter.textContent = Math.max(number, 0).toLocaleString("en");
  }

  /** Show how many corrections were decided today. @param {number} step */
  progress(step) {
    const bar = /** @type {HTMLProgressElement | null} */ (document.getElementById("progress"));
    const text = document.getElementById("decided-today");
    if (!bar || !text) return;
    text.textContent = String(Math.max(Number(text.textContent) + step, 0));
    bar.value = Number(text.textContent);
  }

  updateEmpty() {
    const empty = !this.list.querySelector(".card") && !this.next();
    /** @type {HTMLElement} */ (document.getElementById("empty")).hidden = !empty;
    this.list.closest("table")?.toggleAttribute("hidden", empty);
  }

  /** @returns {HTMLAnchorElement | null} */
  next() {
    return /** @type {HTMLAnchorElement | null} */ (document.getElementById("next"));
  }

  /**
   * Show the cards that are like a card below it, and select them together with it.
   * @param {HTMLElement} card @param {HTMLAnchorElement} link to a page with them
   */
  async showAlike(card, link) {
    /** @type {string | null} */
    let address = link.href;
    const alike = [card];
    try {
      while (address) {
        const page = await fetchPage(address);
        for (const found of page.querySelectorAll("#cards .card")) alike.push(/** @type {HTMLElement} */ (found));
        address = /** @type {HTMLAnchorElement | null} */ (page.getElementById("next"))?.href ?? null;
      }
    } catch {
      return announce("The corrections could not be loaded.");
    }
    const present = new Map([...this.cards(), ...this.removed.keys()].map((shown) => [shown.dataset.id, shown]));
    let last = card.closest("li") ?? card;
    for (const found of alike) {
      const shown = present.get(found.dataset.id);
      if (shown && this.removed.has(shown)) continue; // it was decided meanwhile
      const item = shown ? (shown.closest("li") ?? shown) : document.adoptNode(found.closest("li") ?? found);
      if (item !== last) last.after(item);
      last = item;
      this.select(shown ?? found, true);
    }
    this.showControls(this.list);
    link.remove();
    this.focus(card);
  }

  /** Load the next page and append its cards. */
  async loadMore() {
    const link = this.next();
    if (!link || this.loading) return;
    this.loading = true;
    let short = false;
    try {
      const page = await fetchPage(link.href);
      const present = new Set([...this.cards(), ...this.removed.keys()].map((card) => card.dataset.id));
      const wasEmpty = !this.list.querySelector(".card");
      for (const card of page.querySelectorAll("#cards .card")) {
        if (present.has(/** @type {HTMLElement} */ (card).dataset.id)) continue;
        this.list.append(document.adoptNode(card.closest("li") ?? card));
      }
      for (const labels of page.querySelectorAll("datalist.labels")) {
        if (!document.getElementById(labels.id)) document.body.append(document.adoptNode(labels));
      }
      this.showControls(this.list);
      const nextLink = page.getElementById("next");
      if (nextLink) link.href = /** @type {HTMLAnchorElement} */ (nextLink).href;
      else link.parentElement?.remove();
      short = link.isConnected && link.getBoundingClientRect().top < innerHeight + AHEAD;
      if (wasEmpty && (document.activeElement === document.body || !document.activeElement)) this.focus(this.cards()[0]);
    } catch {
      link.textContent = "Next page (automatic loading failed)";
    } finally {
      this.loading = false;
      this.updateEmpty();
    }
    if (short) await this.loadMore(); // the page was short because its inputs are large
  }
}
