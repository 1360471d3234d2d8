// The home page looks again every ten seconds, but not under somebody's hands, nor where nobody looks.
setInterval(() => {
  const main = document.querySelector("main");
  if (!document.hidden && !main?.contains(document.activeElement)) location.reload();
}, 10_000);
