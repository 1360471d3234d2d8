// Reload the home page every ten seconds, unless it is hidden or has the focus.
setInterval(() => {
  const main = document.querySelector("main");
  if (!document.hidden && !main?.contains(document.activeElement)) location.reload();
}, 10_000);
