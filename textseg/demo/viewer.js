const SVG = "http://www.w3.org/2000/svg";
const stage = element.querySelector(".ts-stage");
const picture = element.querySelector(".ts-picture");
const layers = element.querySelector(".ts-layers");
const marks = element.querySelector(".ts-marks");
const chips = element.querySelector(".ts-chips");
const empty = element.querySelector(".ts-empty");
const live = element.querySelector(".ts-live");
const rows = element.querySelector(".ts-scroll");
const DRAG = 6; // screen pixels from which a press is a box and not a click

let data = null;
let cross = null; // the keyboard's place, picture pixels
let first = null; // first corner of the keyboard's box
let press = null;

const make = (tag, name, parent) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (parent) parent.appendChild(made);
  return made;
};
const draw = (tag, values, name) => {
  const made = document.createElementNS(SVG, tag);
  for (const key in values) made.setAttribute(key, values[key]);
  made.setAttribute("class", name);
  marks.appendChild(made);
  return made;
};
const unit = () => Math.max(data.width, data.height) / 100;

function light(index) {
  [...layers.children].forEach((one, k) => {
    one.classList.toggle("ts-dim", index >= 0 && k !== index);
    one.classList.toggle("ts-lit", k === index);
  });
  [...chips.children].forEach((one, k) => one.classList.toggle("ts-dim", index >= 0 && k !== index));
}

const rest = () => light(data.lit ? data.chosen : -1);

function render() {
  const text = props.value;
  data = text ? JSON.parse(text) : null;
  stage.hidden = !data;
  empty.hidden = !!data;
  rows.replaceChildren();
  live.textContent = "";
  if (!data) return;
  first = null;
  picture.src = data.picture;
  picture.alt = props.title;
  stage.style.aspectRatio = data.width + " / " + data.height;
  stage.style.setProperty("--ts-ratio", data.width / data.height);
  const help = "Arrow keys move the cross, Enter makes a point, B marks the two corners of a box.";
  stage.setAttribute("role", props.tools ? "application" : "img");
  stage.setAttribute("aria-label", props.title + ": " + data.masks.length + " masks. " + (props.tools ? help : ""));
  if (!props.tools) stage.removeAttribute("tabindex");
  layers.replaceChildren();
  chips.replaceChildren();
  data.masks.forEach((mask) => {
    const layer = make("img", "ts-layer", layers);
    layer.alt = "";
    layer.draggable = false;
    if (mask.png) layer.src = mask.png;
    const chip = make("span", "ts-chip", chips);
    chip.textContent = mask.label + " " + mask.score;
    chip.style.background = mask.color;
    chip.style.left = (100 * mask.box[0]) / data.width + "%";
    chip.style.top = (100 * mask.box[1]) / data.height + "%";
    if (mask.box[1] < data.height * 0.06) chip.classList.add("ts-below");
    if (mask.box[0] > data.width * 0.7) chip.classList.add("ts-left");
  });
  table();
  pointed();
  rest();
}

function table() {
  if (!data.masks.length) return;
  const made = make("table", "ts-rows", rows);
  make("caption", "ts-caption", made).textContent = "Masks and their scores";
  const head = make("tr", "", make("thead", "", made));
  data.heads.forEach((name) => {
    const cell = make("th", "", head);
    cell.scope = "col";
    cell.textContent = name;
  });
  const body = make("tbody", "", made);
  data.masks.forEach((mask, k) => {
    const row = make("tr", k === data.chosen ? "ts-chosen" : "", body);
    const button = make("button", "ts-row", make("td", "", row));
    button.type = "button";
    make("span", "ts-swatch", button).style.background = mask.color;
    make("span", "", button).textContent = mask.label;
    button.setAttribute("aria-pressed", String(k === data.chosen));
    mask.cells.forEach((text) => (make("td", "", row).textContent = text));
    row.addEventListener("mouseenter", () => light(k));
    row.addEventListener("mouseleave", () => rest());
    button.addEventListener("focus", () => light(k));
    button.addEventListener("blur", () => rest());
    row.addEventListener("click", () => choose(k));
  });
}

function choose(k) {
  if (props.tools) {
    trigger("choose", { index: k });
  } else {
    data.chosen = data.chosen === k ? -1 : k;
    data.lit = true;
    [...rows.querySelectorAll("tbody tr")].forEach((row, i) => {
      row.classList.toggle("ts-chosen", i === data.chosen);
      row.querySelector("button").setAttribute("aria-pressed", String(i === data.chosen));
    });
    rest();
  }
}

function pointed() {
  marks.setAttribute("viewBox", "0 0 " + data.width + " " + data.height);
  marks.replaceChildren();
  const u = unit();
  data.marks.forEach((mark) => {
    if (mark.kind === "box") return box(mark.xy, "ts-box");
    const [x, y] = mark.xy;
    draw("circle", { cx: x, cy: y, r: 1.3 * u }, "ts-point ts-" + mark.kind);
    draw("line", { x1: x - 0.7 * u, x2: x + 0.7 * u, y1: y, y2: y }, "ts-sign");
    if (mark.kind === "on") draw("line", { x1: x, x2: x, y1: y - 0.7 * u, y2: y + 0.7 * u }, "ts-sign");
  });
  if (data.corner) corner(data.corner);
  if (first) corner(first);
  if (cross) {
    const [x, y] = cross;
    draw("path", { d: "M" + (x - 3 * u) + " " + y + "h" + 6 * u + "M" + x + " " + (y - 3 * u) + "v" + 6 * u }, "ts-cross");
  }
}

function corner([x, y]) {
  const u = unit();
  draw("path", { d: "M" + x + " " + (y + 3 * u) + "v" + -3 * u + "h" + 3 * u }, "ts-cross");
}

function box([x0, y0, x1, y1], name) {
  const values = { x: Math.min(x0, x1), y: Math.min(y0, y1), width: Math.abs(x1 - x0), height: Math.abs(y1 - y0) };
  return draw("rect", values, name);
}

function place(event) {
  const frame = stage.getBoundingClientRect();
  const x = ((event.clientX - frame.left) / frame.width) * data.width;
  const y = ((event.clientY - frame.top) / frame.height) * data.height;
  return [Math.min(Math.max(x, 0), data.width - 0.01), Math.min(Math.max(y, 0), data.height - 0.01)];
}

const boxed = (a, b) => {
  const values = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
  if (values[2] - values[0] >= 1 && values[3] - values[1] >= 1) trigger("box", { xyxy: values });
};

stage.addEventListener("pointerdown", (event) => {
  if (!props.tools || !data || event.button !== 0) return;
  press = { at: place(event), x: event.clientX, y: event.clientY, touch: event.pointerType === "touch", drag: false };
  if (!press.touch) stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", (event) => {
  if (!press || press.touch) return;
  if (Math.hypot(event.clientX - press.x, event.clientY - press.y) > DRAG) press.drag = true;
  if (press.drag) {
    pointed();
    box([...press.at, ...place(event)], "ts-box");
  }
});
stage.addEventListener("pointerup", (event) => {
  if (!press) return;
  const { at, drag, touch, x, y } = press;
  press = null;
  cross = null;
  if (drag) return boxed(at, place(event));
  if (touch && Math.hypot(event.clientX - x, event.clientY - y) > 2 * DRAG) return; // a swipe scrolls the page
  trigger("point", { x: at[0], y: at[1] });
});
stage.addEventListener("pointercancel", () => (press = null));

stage.addEventListener("keydown", (event) => {
  if (!props.tools || !data) return;
  const step = Math.max(1, (event.shiftKey ? 5 : 1) * unit());
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (moves[event.key]) {
    const [x, y] = cross || [data.width / 2, data.height / 2];
    const [dx, dy] = moves[event.key];
    cross = [Math.min(Math.max(x + dx, 0), data.width - 1), Math.min(Math.max(y + dy, 0), data.height - 1)];
    live.textContent = "cross at " + Math.round(cross[0]) + ", " + Math.round(cross[1]);
  } else if (event.key === "Enter" || event.key === " ") {
    cross = cross || [data.width / 2, data.height / 2];
    trigger("point", { x: cross[0], y: cross[1] });
  } else if (event.key === "b" || event.key === "B") {
    cross = cross || [data.width / 2, data.height / 2];
    if (first) {
      boxed(first, cross);
      first = null;
    } else {
      first = cross;
      live.textContent = "first corner of a box";
    }
  } else if (event.key === "Escape") {
    first = null;
    cross = null;
  } else {
    return;
  }
  event.preventDefault();
  pointed();
});

watch("value", render);
render();
