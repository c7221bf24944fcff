"use strict";
// The viewer of mutual labels: draws the chosen object's candidates from the JSON in #label-data.
(() => {
  const source = document.getElementById("label-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const root = document.getElementById("viewer");
  const state = { run: 0, image: 0, object: 0, whole: false };
  const TASKS = { cls: "classification", loc: "localization" };
  const DECIDES = { cls: ["iou", "IoU"], loc: ["score", "score"] };
  const SIGNS = [["-", "var(--neg)"], [".", "var(--ign)"], ["+", "var(--pos)"]]; // positives on top

  function element(name, attributes, ...children) {
    const svg = ["svg", "image", "rect", "path", "line", "text"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }

  function choose(name, caption, options) {
    const select = element("select", { id: "choose-" + name });
    options.forEach((option, k) => select.append(element("option", { value: k }, option)));
    select.value = state[name];
    select.addEventListener("change", () => {
      state[name] = Number(select.value);
      if (name === "run") state.image = Math.min(state.image, data.runs[state.run].images.length - 1);
      if (name === "image") state.object = 0;
      draw();
    });
    return element("label", {}, caption, select);
  }

  function frame(image, object) {
    const [width, height] = image.size;
    if (state.whole || !object) return [0, 0, width, height];
    const [x1, y1, x2, y2] = object.box, margin = 0.2 * Math.max(x2 - x1, y2 - y1, 32);
    // the object and its candidates, with room for their dots
    const span = (low, high, values, end) => {
      for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
      low = Math.max(0, low - margin);
      return [low, Math.max(1, Math.min(end, high + margin) - low)];
    };
    const [left, wide] = span(x1, x2, object.x, width), [top, tall] = span(y1, y2, object.y, height);
    return [left, top, wide, tall];
  }

  function panel(image, object, way, task) {
    const [width, height] = image.size, view = frame(image, object), unit = Math.max(view[2], view[3]);
    const labels = object ? object.labels[way][task] : "";
    const count = (sign) => labels.split(sign).length - 1;
    const caption = `${way}, ${TASKS[task]}: ${count("+")} positive` + (count(".") ? `, ${count(".")} ignored` : "");
    const svg = element("svg", { viewBox: view.join(" "), role: "img", "aria-label": caption, "data-way": way, "data-task": task });
    svg.append(element("image", { href: data.pictures[image.picture], width, height, preserveAspectRatio: "none" }));
    svg.append(element("rect", { width, height, fill: "#000", "fill-opacity": 0.35 }));
    image.objects.forEach((other, k) => {
      const [x1, y1, x2, y2] = other.box, own = k === state.object;
      svg.append(element("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, fill: "transparent", stroke: "#fff",
        "stroke-width": unit * (own ? 0.01 : 0.004), onclick: () => { state.object = k; draw(); } }));
    });
    for (const [sign, color] of SIGNS) {
      let path = "";
      for (let j = 0; j < labels.length; j++) if (labels[j] === sign) path += `M${object.x[j]} ${object.y[j]}h.01`;
      if (path) svg.append(element("path", { d: path, stroke: color, "stroke-width": unit * 0.025, "stroke-linecap": "round",
        fill: "none", "pointer-events": "none", "data-sign": sign }));
    }
    return element("figure", {}, svg, element("figcaption", {}, caption));
  }

  function histogram(object, task) {
    const [key, name] = DECIDES[task], counts = object.hist[key], tau = object.tau[key];
    const end = key === "iou" ? 1 : object.score_max, most = Math.max(...counts, 1);
    const W = 320, H = 150, L = 36, B = 22, T = 24, place = (value) => L + (value / end) * (W - L - 8);
    const svg = element("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `histogram of the candidates' ${name}` });
    counts.forEach((n, k) => {
      const low = (k / counts.length) * end, high = ((k + 1) / counts.length) * end, tall = (n / most) * (H - B - T);
      const color = tau !== null && !object.fell_back[task] && (low + high) / 2 > tau ? "var(--pos)" : "var(--neg)";
      if (n) svg.append(element("rect", { x: place(low) + 0.5, y: H - B - tall, width: place(high) - place(low) - 1, height: tall,
        fill: color }));
    });
    svg.append(element("line", { x1: L, x2: W - 8, y1: H - B, y2: H - B, stroke: "var(--ink)" }));
    const write = (x, y, text, anchor) => svg.append(element("text", { x, y, "text-anchor": anchor }, text));
    write(L, H - 6, "0", "middle");
    write(W - 8, H - 6, String(Number(end.toPrecision(2))), "end");
    write((L + W) / 2, H - 6, name, "middle");
    write(L - 4, T + 8, String(most), "end");
    write(L - 4, H - B, "0", "end");
    if (tau !== null) {
      svg.append(element("line", { x1: place(tau), x2: place(tau), y1: 4, y2: H - B, stroke: "var(--ink)", "stroke-width": 2,
        "stroke-dasharray": "5 3" }));
      const right = tau / end > 0.6;
      write(place(tau) + (right ? -5 : 5), 13, "Otsu " + tau.toFixed(3), right ? "end" : "start");
    }
    return element("figure", {}, svg, element("figcaption", {}, verdict(object, task)));
  }

  function verdict(object, task) {
    const name = DECIDES[task][1], n = object.x.length;
    if (!n) return `${TASKS[task]}: no candidate prior, nothing to split.`;
    if (object.fell_back[task]) {
      const then = data.runs[state.run].degenerate === "literal" ? "there is no positive (degenerate: literal)."
        : "the object falls back on the baseline's labels.";
      return `${TASKS[task]}: the candidates' ${name}s are all equal and cannot be split: ${then}`;
    }
    const before = object.labels.baseline[task].split("+").length - 1, after = object.labels.mutual[task].split("+").length - 1;
    return `${TASKS[task]}: ${after} of ${n} candidates have an ${name} above the threshold and are positive (baseline: ${before}).`
      .replace("an score", "a score");
  }

  function draw() {
    const run = data.runs[state.run], image = run.images[state.image];
    const active = document.activeElement && document.activeElement.id;
    root.replaceChildren();
    const controls = element("div", { class: "controls" });
    root.append(controls);
    if (data.runs.length > 1) controls.append(choose("run", "run", data.runs.map((each) => each.name)));
    if (!image) { root.append(element("p", {}, "No image with objects.")); return; }
    controls.append(choose("image", "image", run.images.map((each) => each.name)));
    if (state.object >= image.objects.length) state.object = 0;
    const object = image.objects[state.object];
    const buttons = element("div", { class: "controls", role: "group", "aria-label": "object" });
    image.objects.forEach((each, k) => buttons.append(element("button", { type: "button", id: "object-" + k,
      "aria-pressed": k === state.object, onclick: () => { state.object = k; draw(); } }, `${k + 1} ${each.name}`)));
    buttons.append(element("button", { type: "button", id: "whole", "aria-pressed": state.whole,
      onclick: () => { state.whole = !state.whole; draw(); } }, "whole image"));
    root.append(buttons);
    const panels = element("div", { class: "panels" });
    for (const task of ["cls", "loc"]) for (const way of ["baseline", "mutual"]) panels.append(panel(image, object, way, task));
    root.append(panels);
    if (object) root.append(element("div", { class: "histograms" }, histogram(object, "cls"), histogram(object, "loc")));
    if (image.left_out) root.append(element("p", { class: "said" }, `${image.left_out} more objects of this image are not shown.`));
    if (active && document.getElementById(active)) document.getElementById(active).focus();
  }

  root.hidden = false;
  draw();
})();
