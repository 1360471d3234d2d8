// Messages of the page: a visible toast, and announcements for screen readers.

/** @param {string} text */
export function announce(text) {
  const region = /** @type {HTMLElement} */ (document.getElementById("announcement"));
  region.textContent = "";
  requestAnimationFrame(() => (region.textContent = text)); // so that a repeated text is announced again
}

/**
 * @param {string} text
 * @param {boolean} undoable whether the toast has the button Undo
 */
export function toast(text, undoable) {
  const box = /** @type {HTMLElement} */ (document.getElementById("toast"));
  /** @type {HTMLElement} */ (document.getElementById("toast-text")).textContent = text;
  /** @type {HTMLElement} */ (document.getElementById("undo")).hidden = !undoable;
  const appears = box.hidden;
  box.hidden = false;
  if (appears) document.activeElement?.closest(".card")?.scrollIntoView({ block: "nearest" }); // it may be below the toast
  announce(text);
}
