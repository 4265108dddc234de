/**
 * Nearer and farther, and moving about: by wheel, pinch, drag, keys and buttons.
 * While the whole picture is in view a drag moves the slider; nearer, it moves the picture.
 */

const NEAREST = 12;
const STEP = 1.5;
const PAN_KEYS = {
  ArrowLeft: [60, 0],
  ArrowRight: [-60, 0],
  ArrowUp: [0, 60],
  ArrowDown: [0, -60],
};

export class Zoom {
  constructor(frame, tools) {
    this.frame = frame;
    this.tools = tools;
    this.fit = tools.querySelector("#zoom-fit");
    this.pointers = new Map();
    this.drag = null;
    tools.querySelector("#zoom-in").addEventListener("click", () => this.by(STEP));
    tools.querySelector("#zoom-out").addEventListener("click", () => this.by(1 / STEP));
    this.fit.addEventListener("click", () => this.whole());
    frame.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    frame.addEventListener("dblclick", (event) => this.jump(event));
    frame.addEventListener("keydown", (event) => this.press(event));
    frame.addEventListener("pointerdown", (event) => this.down(event));
    frame.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      frame.addEventListener(name, (event) => this.up(event));
    }
    this.reset(null);
  }

  /** Another picture of the same restoration keeps the place; no picture forgets it. */
  reset(slider) {
    this.slider = slider;
    this.tools.hidden = "empty" in this.frame.parentElement.dataset;
    if (this.tools.hidden || this.scale === undefined) this.whole();
    else this.apply();
  }

  whole() {
    Object.assign(this, { scale: 1, x: 0, y: 0 });
    this.apply();
  }

  apply() {
    const { clientWidth: width, clientHeight: height } = this.frame;
    const inside = (at, size) => Math.min(0, Math.max(size * (1 - this.scale), at));
    this.x = inside(this.x, width);
    this.y = inside(this.y, height);
    this.frame.style.setProperty("--zoom", this.scale.toFixed(4));
    this.frame.style.setProperty("--x", `${this.x.toFixed(1)}px`);
    this.frame.style.setProperty("--y", `${this.y.toFixed(1)}px`);
    this.frame.classList.toggle("near", this.scale > 1);
    this.frame.classList.toggle("very-near", this.scale > 4);
    this.frame.dataset.zoom = this.scale.toFixed(2);
    this.fit.textContent = `${this.scale.toFixed(1)}×`;
    this.tools.querySelector("#zoom-out").disabled = this.scale <= 1;
    this.tools.querySelector("#zoom-in").disabled = this.scale >= NEAREST;
  }

  /** Changes the scale while the point (x, y) of the frame keeps its place. */
  by(factor, x = this.frame.clientWidth / 2, y = this.frame.clientHeight / 2) {
    const scale = Math.min(NEAREST, Math.max(1, this.scale * factor));
    const change = scale / this.scale;
    this.x = x - (x - this.x) * change;
    this.y = y - (y - this.y) * change;
    this.scale = scale < 1.001 ? 1 : scale;
    this.apply();
  }

  point({ clientX, clientY }) {
    const { left, top } = this.frame.getBoundingClientRect();
    return [clientX - left, clientY - top];
  }

  wheel(event) {
    const outward = event.deltaY > 0;
    // With nothing to leave, the wheel scrolls the page.
    if (this.tools.hidden || (outward && this.scale === 1)) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
    this.by(Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.002)), ...this.point(event));
  }

  jump(event) {
    if (this.tools.hidden) return;
    if (this.scale > 1) this.whole();
    else this.by(3, ...this.point(event));
  }

  press(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const pan = PAN_KEYS[event.key];
    if (event.key === "+" || event.key === "=") this.by(STEP);
    else if (event.key === "-") this.by(1 / STEP);
    else if (event.key === "0") this.whole();
    else if (pan && this.scale > 1) this.pan(...pan);
    else return;
    event.preventDefault();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.apply();
  }

  down(event) {
    if (event.button !== 0 || this.tools.hidden) return;
    this.frame.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    const onHandle = event.target.closest(".handle") !== null;
    if (this.pointers.size === 2) this.drag = "pinch";
    else if (this.slider && (onHandle || this.scale === 1)) this.drag = "divide";
    else this.drag = "pan";
    if (this.drag === "divide") {
      this.slider.focus();
      this.slider.moveTo(event.clientX);
    } else {
      this.frame.focus({ preventScroll: true, focusVisible: false });
    }
    event.preventDefault();
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    if (this.drag === "pinch") this.pinch(event);
    else if (this.drag === "divide") this.slider?.moveTo(event.clientX);
    else this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    this.pointers.set(event.pointerId, event);
  }

  pinch(event) {
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (!other) return;
    const before = this.pointers.get(event.pointerId);
    const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    const [x, y] = this.point(event);
    const [otherX, otherY] = this.point(other);
    this.pan((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
    const factor = apart(event) / Math.max(1, apart(before));
    this.by(factor, (x + otherX) / 2, (y + otherY) / 2);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    // The finger that stays after a pinch must not jerk the slider.
    this.drag = this.pointers.size > 0 ? "pan" : null;
  }
}
