/* Before the first paint: the theme that this browser was told to keep. See theme.js. */
try {
  const theme = JSON.parse(localStorage.getItem("instantir.theme"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Without storage the page follows the system.
}
