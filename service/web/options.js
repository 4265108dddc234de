/** The settings form, built from one table of what POST /restore accepts. */

/** An empty value always means: leave it to the preset. */
const FIELDS = [
  {
    name: "preset",
    label: "Preset",
    choices: [["", "Default"], ["faithful", "Faithful, as published"], ["balanced", "Balanced"], ["fast", "Fast"]],
  },
  {
    name: "color_match",
    label: "Color match",
    choices: [["", "By preset"], ["none", "None"], ["wavelet", "Wavelet"], ["adain", "AdaIN"]],
  },
  {
    name: "adaptive",
    label: "Adaptive",
    choices: [["", "By preset"], ["official", "As published"], ["reuse", "Reuse references"], ["off", "Off"]],
  },
  { name: "steps", label: "Steps", hint: "1 to 100", number: { min: 1, max: 100, step: 1 } },
  { name: "guidance_scale", label: "Guidance", hint: "1 to 20", number: { min: 1, max: 20, step: "any" } },
  { name: "seed", label: "Seed", hint: "Whole number", number: { min: 0, max: 4294967295, step: 1 } },
  { name: "prompt", label: "Prompt", hint: "What the picture shows", wide: true },
];

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function control(field) {
  const id = `option-${field.name}`;
  if (field.choices) {
    const options = field.choices.map(([value, text]) => new Option(text, value));
    return element("select", { id, name: field.name }, ...options);
  }
  const input = element("input", { id, name: field.name, autocomplete: "off", placeholder: field.hint });
  if (field.number) {
    Object.assign(input, { type: "number", inputMode: "decimal", ...field.number });
  }
  return input;
}

function row(field) {
  const input = control(field);
  const error = element("span", { className: "field-error", id: `${input.id}-error`, hidden: true });
  input.setAttribute("aria-describedby", error.id);
  const label = element("label", { htmlFor: input.id, textContent: field.label });
  return element("div", { className: field.wide ? "field wide" : "field" }, label, input, error);
}

/** A number field may hold 1e3, which the service would not read as a whole number. */
const spelled = (input) => (input.type === "number" ? String(input.valueAsNumber) : input.value.trim());

/** The collapsible form: values(), valid(), onChange. */
export class OptionsForm {
  constructor(panel) {
    this.panel = panel;
    this.form = panel.querySelector("form");
    this.badge = panel.querySelector(".badge");
    panel.querySelector("#fields").append(...FIELDS.map(row));
    this.form.addEventListener("input", (event) => this.changed(event.target));
    this.form.addEventListener("reset", () => queueMicrotask(() => this.refresh()));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.refresh();
  }

  /** Only the fields that were filled in, as the form fields of POST /restore. */
  values() {
    const inputs = [...this.form.elements].filter((input) => input.name && input.value.trim() !== "");
    return Object.fromEntries(inputs.map((input) => [input.name, spelled(input)]));
  }

  /** Shows what is out of range and moves there; true when all is well. */
  valid() {
    const wrong = [...this.form.elements].filter((input) => !this.check(input));
    if (wrong.length === 0) return true;
    this.panel.open = true;
    wrong[0].focus();
    return false;
  }

  changed(input) {
    if (!input.validity.badInput) this.check(input);
    this.refresh();
  }

  check(input) {
    const error = document.getElementById(`${input.id}-error`);
    if (!error) return true;
    const good = input.validity.valid;
    error.hidden = good;
    error.textContent = good ? "" : input.validationMessage;
    input.toggleAttribute("aria-invalid", !good);
    return good;
  }

  refresh() {
    for (const input of this.form.elements) if (input.validity.valid) this.check(input);
    const count = Object.keys(this.values()).length;
    this.badge.hidden = count === 0;
    this.badge.textContent = `${count} set`;
  }
}
