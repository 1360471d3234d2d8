// What the page tells: a toast to see, and the same for those who listen.

/** @param {string} text */
export function say(text) {
  const spoken = /** @type {HTMLElement} */ (document.getElementById("spoken"));
  spoken.textContent = "";
  requestAnimationFrame(() => (spoken.textContent = text)); // the same text twice is said twice
}

/**
 * @param {string} text
 * @param {boolean} undoable whether a button takes it back
 */
export function toast(text, undoable) {
  const box = /** @type {HTMLElement} */ (document.getElementById("toast"));
  /** @type {HTMLElement} */ (document.getElementById("toast-text")).textContent = text;
  /** @type {HTMLElement} */ (document.getElementById("undo")).hidden = !undoable;
  box.hidden = false;
  say(text);
}
