// What all pages share: times in the reader's time zone, the search for a model, and how to load another page.

/** @param {string} address @param {number} [timeout] in milliseconds @returns {Promise<Document>} */
export async function fetchPage(address, timeout = 15000) {
  const response = await fetch(address, { signal: AbortSignal.timeout(timeout) });
  if (!response.ok) throw new Error(String(response.status));
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  showLocalTimes(page);
  return page;
}

/** Show times in the reader's time zone, and as the server wrote them at the pointer. @param {Document} page */
function showLocalTimes(page) {
  for (const time of page.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    const isToday = at.toDateString() === new Date().toDateString();
    const local = at.toLocaleString(undefined, isToday ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" });
    if (time.title) time.title = `${local} (${time.title})`;
    else [time.title, time.textContent] = [time.textContent ?? "", local];
  }
}

showLocalTimes(document);

// Show a model as soon as it is chosen from the list of a search; without this script, Enter or the button shows it.
for (const form of document.querySelectorAll("form[data-submit]")) {
  form.addEventListener("input", (event) => {
    const { inputType } = /** @type {InputEvent} */ (event);
    if (!inputType || inputType === "insertReplacementText") /** @type {HTMLFormElement} */ (form).requestSubmit();
  });
}
