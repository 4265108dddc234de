/** The other settings, built from one table of what POST /restore accepts. */

import { element } from "./build.js";

/** An empty value always means: leave it to the preset. */
const FIELDS = [
  {
    name: "color_match",
    label: "Color match",
    choices: [["", "By preset"], ["none", "None"], ["wavelet", "Wavelet"], ["adain", "AdaIN"]],
  },
  {
    name: "adaptive",
    label: "Adaptive",
    choices: [
      ["", "By preset"],
      ["official", "As published"],
      ["reuse", "Reuse references"],
      ["off", "Off"],
    ],
  },
  {
    name: "output_format",
    label: "Save as",
    choices: [["", "PNG"], ["jpeg", "JPEG"], ["webp", "WebP"], ["avif", "AVIF"]],
  },
  { name: "steps", label: "Steps", hint: "1 to 100", number: { min: 1, max: 100, step: 1 } },
  {
    name: "guidance_scale",
    label: "Guidance",
    hint: "1 to 20",
    number: { min: 1, max: 20, step: "any" },
  },
  {
    name: "seed",
    label: "Seed",
    hint: "Whole number",
    number: { min: 0, max: 4294967295, step: 1 },
  },
];

function control(field) {
  const id = `option-${field.name}`;
  if (field.choices) {
    const options = field.choices.map(([value, text]) => new Option(text, value));
    return element("select", { id, name: field.name }, ...options);
  }
  const input = element("input", { id, name: field.name, placeholder: field.hint });
  return Object.assign(input, {
    type: "number",
    inputMode: "decimal",
    autocomplete: "off",
    ...field.number,
  });
}

function row(field) {
  const input = control(field);
  const id = `${input.id}-error`;
  const error = element("span", { className: "field-error", id, hidden: true });
  input.setAttribute("aria-describedby", id);
  const label = element("label", { htmlFor: input.id, textContent: field.label });
  return element("div", { className: "field" }, label, input, error);
}

/** A number field may hold 1e3, which the service would not read as a whole number. */
const spelled = (input) => (input.type === "number" ? String(input.valueAsNumber) : input.value);

/** The collapsible settings: values(), valid(). */
export class Options {
  constructor(panel, onChange) {
    this.panel = panel;
    this.badge = panel.querySelector(".badge");
    this.onChange = onChange;
    panel.querySelector(".fields").append(...FIELDS.map(row));
    this.inputs = [...panel.querySelectorAll("input, select")];
    for (const input of this.inputs) {
      input.addEventListener("input", () => {
        if (!input.validity.badInput) this.check(input);
        this.refresh();
      });
    }
    document.getElementById("settings-clear").addEventListener("click", () => this.clear());
    this.refresh();
  }

  clear() {
    for (const input of this.inputs) {
      input.value = "";
      this.check(input);
    }
    this.refresh();
  }

  /** Only the fields that were filled in and make sense, as form fields of POST /restore. */
  values() {
    const filled = this.inputs.filter((input) => input.value !== "" && input.validity.valid);
    return Object.fromEntries(filled.map((input) => [input.name, spelled(input)]));
  }

  /** Shows what is out of range and moves there; true when all is well. */
  valid() {
    const wrong = this.inputs.filter((input) => !this.check(input));
    if (wrong.length === 0) return true;
    this.panel.open = true;
    wrong[0].focus();
    return false;
  }

  check(input) {
    const error = document.getElementById(`${input.id}-error`);
    const good = input.validity.valid;
    error.hidden = good;
    error.textContent = good ? "" : input.validationMessage;
    if (good) input.removeAttribute("aria-invalid");
    else input.setAttribute("aria-invalid", "true");
    return good;
  }

  refresh() {
    for (const input of this.inputs) if (input.validity.valid) this.check(input);
    const count = Object.keys(this.values()).length;
    this.badge.hidden = count === 0;
    this.badge.textContent = `${count} set`;
    this.onChange();
  }
}
