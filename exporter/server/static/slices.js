// Load slices into the panels that have a link to their page: a search may take seconds, and the page does not wait.
import { fetchPage } from "./page.js";

const TIMEOUT = 120_000; // other searches may come first
const MOST = "3"; // slices in a panel; the page behind the link has more

for (const panel of document.querySelectorAll("[data-slices]")) load(/** @type {HTMLElement} */ (panel));

/** @param {HTMLElement} panel */
async function load(panel) {
  const link = /** @type {HTMLAnchorElement} */ (panel.querySelector("a"));
  const note = document.createElement("p");
  note.className = "small";
  note.textContent = "Searching…";
  panel.prepend(note);
  panel.setAttribute("aria-busy", "true");
  try {
    const address = new URL(link.href);
    const isWhole = address.pathname === location.pathname; // the page of slices, opened without a model
    if (!isWhole) address.searchParams.set("limit", MOST);
    const found = (await fetchPage(address.href, TIMEOUT)).getElementById("slices");
    if (!found) throw new Error("no slices");
    found.removeAttribute("id"); // a page may have several panels
    note.replaceWith(document.adoptNode(found));
    if (isWhole) link.remove();
    else link.textContent = "All slices, other times and questions";
    const summary = panel.closest("details")?.querySelector("summary");
    if (summary) summary.textContent += ` (${found.querySelectorAll("li").length})`; // on a phone it is closed
  } catch {
    note.textContent = "The search failed. Follow the link to see why.";
  } finally {
    panel.removeAttribute("aria-busy");
  }
}
