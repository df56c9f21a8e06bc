// Charts as elements: no text of a model's or a client's ever becomes markup.

const SVG = "http://www.w3.org/2000/svg";

export const signed = (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(1);

export const cost = (value) => `x${value < 100 ? value.toFixed(1) : Math.round(value)}`;

function shape(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

// An effect on a line, above the band of random pushes.
export function meter(effect, chance) {
  const most = Math.max(2, Math.abs(effect), ...(chance || []).map(Math.abs)) * 1.15;
  const at = (value) => 200 + (value / most) * 190;
  const svg = shape("svg", { viewBox: "0 0 400 46", role: "img" });
  const range = chance ? `; random pushes have ${signed(chance[0])} to ${signed(chance[1])}` : "";
  svg.setAttribute("aria-label", `effect ${signed(effect)}${range}`);
  if (chance) {
    svg.append(shape("rect", { class: "band", x: at(chance[0]), y: 8, width: at(chance[1]) - at(chance[0]), height: 20 }));
    svg.append(shape("text", { x: at(chance[0]), y: 42, "text-anchor": "middle" }, signed(chance[0])));
    svg.append(shape("text", { x: at(chance[1]), y: 42, "text-anchor": "middle" }, signed(chance[1])));
  }
  svg.append(shape("line", { class: "axis", x1: 10, x2: 390, y1: 28, y2: 28 }));
  svg.append(shape("line", { class: "axis", x1: 200, x2: 200, y1: 4, y2: 28 }));
  svg.append(shape("text", { x: 200, y: 42, "text-anchor": "middle" }, "0"));
  svg.append(shape("circle", { class: "effect", cx: at(effect), cy: 18, r: 7 }));
  return svg;
}

// The effects of a sweep: a button a layer, which fill as the layers come.
export class LayerChart {
  constructor(list, layers, chosen) {
    this.rows = [];
    this.buttons = [];
    list.replaceChildren();
    for (let layer = 0; layer < layers; layer += 1) {
      const button = document.createElement("button");
      const number = document.createElement("span");
      button.type = "button";
      button.disabled = true;
      button.setAttribute("aria-label", `layer ${layer}: not yet known`);
      button.setAttribute("aria-pressed", "false");
      number.className = "number";
      number.textContent = layer;
      button.append(number);
      button.addEventListener("click", () => {
        for (const other of this.buttons) other.setAttribute("aria-pressed", String(other === button));
        chosen(this.rows[layer]);
      });
      const item = document.createElement("li");
      item.append(button);
      list.append(item);
      this.buttons.push(button);
    }
  }

  add(row) {
    this.rows[row.layer] = row;
    const button = this.buttons[row.layer];
    button.disabled = false;
    button.setAttribute("aria-label", LayerChart.describe(row));
    button.title = LayerChart.describe(row);
    this.draw();
  }

  // The description of the whole chart, as the terminal and reports draw it: which layers are useful, which are chance.
  // Returns it in a sentence.
  finish(described) {
    const [first, last] = described.useful ?? [0, -1];
    described.at.forEach((layer, place) => {
      const button = this.buttons[layer];
      const useful = first <= place && place <= last;
      button.classList.toggle("useful", useful);
      button.classList.toggle("faint", described.faint.includes(place));
      if (useful) button.setAttribute("aria-label", `${button.getAttribute("aria-label")}, useful`);
    });
    if (!described.series[0].bands.some(Boolean)) return "No chance band was measured for this model.";
    if (!described.useful) return "No layer does more than random pushes do.";
    const [from, to] = [described.labels[first], described.labels[last]];
    return `Useful, as far as one answer a layer tells: ${from === to ? `layer ${from}` : `layers ${from} to ${to}`}.`;
  }

  static describe(row) {
    if (row.effect === null) return `layer ${row.layer}: no effect could be read`;
    return `layer ${row.layer}: effect ${signed(row.effect)}, cost ${cost(row.cost ?? 1)}`;
  }

  draw() {
    const known = this.rows.filter((row) => row && row.effect !== null);
    const most = Math.max(2, ...known.flatMap((row) => [row.effect, ...(row.chance || [])].map(Math.abs)));
    for (const row of known) {
      const button = this.buttons[row.layer];
      for (const old of button.querySelectorAll(".band, .bar")) old.remove();
      const box = (name, low, high) => {
        const part = document.createElement("span");
        part.className = name;
        part.style.bottom = `${56 + (low / most) * 40}%`; // the layers' numbers lie beneath
        part.style.height = `${Math.max(1, ((high - low) / most) * 40)}%`;
        button.prepend(part);
      };
      box(row.cost > 4 ? "bar costly" : "bar", Math.min(0, row.effect), Math.max(0, row.effect));
      if (row.chance) box("band", row.chance[0], row.chance[1]);
    }
  }
}
