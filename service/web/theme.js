/** The button that goes round the themes: as the system has it, light, dark. */

import { shape } from "./build.js";
import { load, save } from "./store.js";

const SHAPES = {
  auto: ["Theme: as the system", "M10 3a7 7 0 1 0 0 14a7 7 0 0 0 0-14z", "M10 3a7 7 0 0 1 0 14z"],
  light: [
    "Theme: light",
    "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7M10 1.8v1.7M10 16.5v1.7M1.8 10h1.7M16.5 10h1.7" +
      "M4.2 4.2l1.2 1.2M14.6 14.6l1.2 1.2M4.2 15.8l1.2-1.2M14.6 5.4l1.2-1.2",
  ],
  dark: ["Theme: dark", "M16.5 12.2A7 7 0 0 1 7.8 3.5a7 7 0 1 0 8.7 8.7z"],
};
const ORDER = Object.keys(SHAPES);

function draw(button, theme) {
  const [label, line, area = ""] = SHAPES[theme];
  button.setAttribute("aria-label", label);
  button.title = label;
  const paths = [shape("path", { d: line }), shape("path", { d: area, class: "half" })];
  button.replaceChildren(shape("svg", { viewBox: "0 0 20 20", "aria-hidden": true }, ...paths));
}

function apply(button, theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  draw(button, theme);
}

export function offerThemes(button) {
  const known = (theme) => (ORDER.includes(theme) ? theme : "auto");
  let theme = known(load("theme", "auto"));
  apply(button, theme);
  button.addEventListener("click", () => {
    theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    save("theme", theme === "auto" ? null : theme);
    apply(button, theme);
  });
}
