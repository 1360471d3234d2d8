// Reload the home page every ten seconds, unless it is hidden or has the focus; show the models that are searched for.
setInterval(() => {
  const main = document.querySelector("main");
  if (!document.hidden && !main?.contains(document.activeElement)) location.reload();
}, 10_000);

const search = /** @type {HTMLInputElement | null} */ (document.querySelector('input[name="q"]'));
search?.addEventListener("input", () => {
  const wanted = search.value.trim().toLowerCase();
  for (const row of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".models tbody tr"))) {
    const names = row.querySelectorAll("th, .name");
    row.hidden = !`${names[0].textContent} ${names[1].textContent}`.toLowerCase().includes(wanted);
  }
  const folded = /** @type {HTMLDetailsElement | null} */ (document.getElementById("more")?.parentElement);
  if (folded) folded.open = wanted !== "";
});
