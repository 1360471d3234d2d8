// Show a model as soon as it is chosen from the list of a search; without this script, Enter or the button shows it.
for (const form of document.querySelectorAll("form[data-submit]")) {
  form.addEventListener("input", (event) => {
    const { inputType } = /** @type {InputEvent} */ (event);
    if (!inputType || inputType === "insertReplacementText") /** @type {HTMLFormElement} */ (form).requestSubmit();
  });
}
