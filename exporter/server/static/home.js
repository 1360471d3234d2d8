// Refresh the parts of the home page in place, every ten seconds and while a model is typed into the search.
import { fetchPage } from "./page.js";

const EVERY = 10_000; // milliseconds between two requests
const REST = 30; // times as long as a request took
const TYPING = 250;

let shown = new Date();
/** @type {ReturnType<typeof setTimeout>} */
let timer;

function next(wait = EVERY) {
  clearTimeout(timer);
  timer = setTimeout(refresh, wait);
}

/** The address without the part that only moves the view. */
const address = () => location.pathname + location.search;

async function refresh() {
  const begin = performance.now();
  const asked = address();
  if (document.hidden || !getSelection()?.isCollapsed) return next();
  const stale = /** @type {HTMLElement} */ (document.getElementById("stale"));
  let problem = "The exporter does not respond.";
  try {
    const page = await fetchPage(asked);
    if (asked !== address()) return next(TYPING); // it was typed on
    if (!page.getElementById("rows")) {
      problem = "The response is not this page. Reload it, and sign in if asked.";
      throw new Error(problem);
    }
    document.title = page.title;
    for (const part of document.querySelectorAll("[data-live]")) replace(part, page.getElementById(part.id));
    shown = new Date();
    stale.hidden = true;
  } catch {
    stale.textContent = `${problem} What is shown is from ${shown.toLocaleTimeString()}.`;
    stale.hidden = false;
  }
  next(Math.max(EVERY, REST * (performance.now() - begin)));
}

/** Replace a part of the page; what is open stays open, and the focus where it is. @param {Element} part @param {HTMLElement | null} fresh */
function replace(part, fresh) {
  if (!fresh) return;
  const open = [...part.querySelectorAll("details[open]")].map(keyOf);
  for (const one of fresh.querySelectorAll("details")) one.open = open.includes(keyOf(one));
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const index = focused ? alike(part, focused).indexOf(focused) : -1;
  part.replaceWith(document.adoptNode(fresh));
  if (focused) /** @type {HTMLElement | undefined} */ (alike(fresh, focused)[index])?.focus({ preventScroll: true });
}

/** The links or summaries like one, of which several may lead to the same. @param {Element} part @param {Element} one */
const alike = (part, one) => [...part.querySelectorAll(one.tagName)].filter((other) => keyOf(other) === keyOf(one));

/** @param {Element} one */
const keyOf = (one) => one.getAttribute("href") ?? one.closest("details")?.dataset.key;

const search = /** @type {HTMLInputElement | null} */ (document.querySelector('input[name="q"]'));
search?.addEventListener("input", () => {
  const wanted = search.value.trim();
  const url = new URL(location.href);
  if (wanted) url.searchParams.set("q", wanted);
  else url.searchParams.delete("q");
  history.replaceState(null, "", url);
  next(TYPING);
});
document.addEventListener("visibilitychange", () => next(document.hidden ? EVERY : 0));
next();
