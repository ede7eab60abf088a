"use strict";
(() => {
  // Screen pixels per panel pixel. Whole numbers: any other would draw some pixels larger than others.
  const FACTORS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
  const GAP = 12, WIDTH = 240, LARGEST = 384;
  const byId = (name) => document.getElementById(name);
  const main = document.querySelector("main");
  const palette = Uint8Array.from(atob(main.dataset.palette), (sign) => sign.charCodeAt(0));
  const sections = [...document.querySelectorAll("section.picture")];
  // x, y: the panel pixel at the middle of every canvas; probe: the marked pixel, or null
  const state = { view: "image", reference: "", level: 0, x: 0, y: 0, probe: null };
  let section, height, width, panels = [], factors = [1];

  function copied(image) {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return { canvas, data: context.getImageData(0, 0, canvas.width, canvas.height).data };
  }

  function painted(columns, rows, data) {
    const canvas = document.createElement("canvas");
    canvas.width = columns;
    canvas.height = rows;
    canvas.getContext("2d").putImageData(new ImageData(data, columns, rows), 0, 0);
    return canvas;
  }

  function adler32(data) {
    let a = 1, b = 0;
    for (let i = 0; i < data.length; i++) {
      if (i % 4 === 3) continue; // alpha
      a = (a + data[i]) % 65521;
      b = (b + a) % 65521;
    }
    return b * 65536 + a;
  }

  async function readPanel(figure) {
    if (figure.panel) return figure.panel;
    const images = [...figure.querySelectorAll("img")];
    await Promise.all(images.map((image) => image.decode()));
    const [pixels, power] = images.map(copied);
    if (adler32(pixels.data) !== Number(figure.dataset.checksum)) byId("altered").hidden = false;
    const colours = new Uint8ClampedArray(power.data.length).fill(255);
    for (let i = 0; i < colours.length; i += 4) colours.set(palette.subarray(3 * power.data[i], 3 * power.data[i] + 3), i);
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    figure.prepend(canvas);
    const name = figure.querySelector(".name");
    figure.panel = {
      figure, canvas, name: figure.dataset.name, isOriginal: "original" in figure.dataset, pixels, power,
      spectrum: painted(power.canvas.width, power.canvas.height, colours),
      note: figure.querySelector(".note").textContent,
      bands: figure.querySelector(".bands")?.textContent ?? "",
      figures: figure.querySelector(".figures"),
      values: figure.querySelector(".values"),
    };
    if (!figure.panel.isOriginal) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "name";
      button.textContent = figure.panel.name;
      button.title = "make it the reference";
      button.addEventListener("click", () => setReference(figure.panel));
      name.replaceWith(button);
      figure.panel.button = button;
    }
    listen(figure.panel);
    return figure.panel;
  }

  async function show(index) {
    main.ariaBusy = "true";
    section = sections[index];
    sections.forEach((other) => { other.hidden = other !== section; });
    [height, width] = [Number(section.dataset.height), Number(section.dataset.width)];
    panels = await Promise.all([...section.querySelectorAll("figure")].map(readPanel));
    if (!panels.some((panel) => panel.name === state.reference)) {
      state.reference = (panels.find((panel) => panel.name === "bilinear") ?? panels[1]).name;
    }
    Object.assign(state, { level: 0, x: width / 2, y: height / 2, probe: null });
    layOut();
    update();
    main.ariaBusy = "false";
  }

  // Panels of one size: whole screen pixels per pixel, unless that leaves much of a column empty
  function layOut() {
    const ratio = window.devicePixelRatio || 1, room = main.clientWidth;
    const wanted = (Math.max(1, Math.round((WIDTH * ratio) / width)) * width) / ratio;
    const column = Math.min(wanted, LARGEST, (room - GAP) / 2);
    const across = Math.round(column * ratio);
    const whole = Math.floor(across / width), fitting = whole * width >= 0.75 * across ? whole : across / width;
    factors = [fitting, ...FACTORS.filter((factor) => factor > fitting)];
    state.level = Math.min(state.level, factors.length - 1);
    for (const { canvas, figure } of panels) {
      canvas.width = Math.round(width * fitting);
      canvas.height = Math.round(height * fitting);
      canvas.style.width = figure.style.width = `${canvas.width / ratio}px`;
      canvas.style.height = `${canvas.height / ratio}px`;
    }
  }

  function setReference(panel) {
    if (panel.isOriginal) return;
    state.reference = panel.name;
    update();
  }

  function difference(panel, reference) {
    const signed = byId("kind").value === "signed", gain = Number(byId("gain").value);
    const a = panel.pixels.data, b = reference.pixels.data, out = new Uint8ClampedArray(a.length).fill(255);
    for (let i = 0; i < a.length; i++) {
      if (i % 4 === 3) continue;
      out[i] = signed ? 128 + gain * (a[i] - b[i]) : gain * Math.abs(a[i] - b[i]);
    }
    return painted(width, height, out);
  }

  function likeness(panel, reference) {
    const a = panel.pixels.data, b = reference.pixels.data;
    let sum = 0, largest = 0;
    for (let i = 0; i < a.length; i++) {
      const d = Math.abs(a[i] - b[i]);
      sum += d * d;
      largest = Math.max(largest, d);
    }
    const psnr = 10 * Math.log10((255 * 255 * 3 * width * height) / sum);
    return sum ? `PSNR ${psnr.toFixed(2)} dB, max ${largest}` : "identical to the reference";
  }

  // What view, reference and options change: the panels' contents and captions
  function update() {
    const reference = panels.find((panel) => panel.name === state.reference), { view } = state;
    byId("choices").hidden = view !== "difference";
    for (const panel of panels) {
      const isReference = panel === reference, compared = view === "difference" && !panel.isOriginal && !isReference;
      panel.shown = view === "spectrum" ? panel.spectrum : compared ? difference(panel, reference) : panel.pixels.canvas;
      panel.figure.toggleAttribute("data-reference", isReference);
      panel.button?.setAttribute("aria-pressed", String(isReference));
      const figures = view === "difference" ? [compared ? likeness(panel, reference) : "shown as it is"] : [panel.bands, panel.note];
      panel.figures.textContent = figures.filter(Boolean).join(" · ") || "\u00a0";
      panel.canvas.setAttribute("aria-label", `${panel.name}: ${compared ? `difference to ${reference.name}` : view}`);
    }
    byId("legend").replaceChildren(...legend());
    draw();
  }

  function legend() {
    if (state.view === "image") return ["Click a panel to make it the reference of the difference."];
    if (state.view === "difference") {
      const gain = byId("gain").value, signed = byId("kind").value === "signed";
      const formula = signed ? `128 + ${gain} × (panel − ${state.reference})` : `${gain} × |panel − ${state.reference}|`;
      return [`Each colour is ${formula}, cut off at 0 and 255. ${signed ? "Grey" : "Black"} is no difference.`];
    }
    const ramp = new Uint8ClampedArray(1024).fill(255);
    for (let i = 0; i < 256; i++) ramp.set(palette.subarray(3 * i, 3 * i + 3), 4 * i);
    const [low, high] = [section.dataset.low, section.dataset.high].map((value) => decibel(Number(value)));
    return ["Power density from ", low, painted(256, 1, ramp), high, ". Frequency 0 in the middle, 0.5 cycles per pixel at the edges."];
  }

  const decibel = (value) => `${value.toFixed(1).replace("-", "−")} dB`;
  const limit = (value, low, high) => Math.min(Math.max(value, low), high);

  // Where the panels' first pixel lies on the canvas, in whole screen pixels, within the picture's bounds
  function origin({ canvas }) {
    const factor = factors[state.level];
    const along = (centre, side, extent) => {
      const half = extent / 2 / factor;
      return side <= 2 * half ? side / 2 : limit(centre, half, side - half);
    };
    state.x = along(state.x, width, canvas.width);
    state.y = along(state.y, height, canvas.height);
    return [Math.round(canvas.width / 2 - state.x * factor), Math.round(canvas.height / 2 - state.y * factor)];
  }

  function draw() {
    const factor = factors[state.level], [left, top] = origin(panels[0]), { probe } = state;
    const isWhole = Number.isInteger(factor);
    byId("factor").textContent = isWhole ? `${factor} : 1` : `${Math.round(100 * factor)} %, smoothed`;
    byId("where").textContent = probe ? where(...probe) : "";
    byId("out").disabled = byId("whole").disabled = state.level === 0;
    byId("in").disabled = state.level === factors.length - 1;
    for (const panel of panels) {
      const { canvas, shown } = panel, context = canvas.getContext("2d");
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.imageSmoothingEnabled = !isWhole || shown.width > width * factor;
      context.imageSmoothingQuality = "high";
      context.drawImage(shown, left, top, width * factor, height * factor);
      // At the whole picture one finger scrolls the page; zoomed in, it moves the picture
      canvas.style.touchAction = state.level ? "none" : "pan-y";
      if (probe) mark(context, left + probe[0] * factor, top + probe[1] * factor, factor);
      panel.values.textContent = probe ? values(panel, ...probe) : "\u00a0";
    }
  }

  function mark(context, left, top, factor) {
    const side = Math.max(factor, 8), at = (start) => Math.round(start + (factor - side) / 2);
    context.lineWidth = 1;
    [["#000", 1.5], ["#fff", 0.5]].forEach(([colour, out]) => {
      context.strokeStyle = colour;
      context.strokeRect(at(left) - out, at(top) - out, Math.round(side) + 2 * out, Math.round(side) + 2 * out);
    });
  }

  function where(x, y) {
    if (state.view !== "spectrum") return `row ${y}, column ${x}`;
    const cycles = (at, side) => ((at - Math.floor(side / 2)) / side).toFixed(3).replace("-", "−");
    return `${cycles(y, height)} down, ${cycles(x, width)} across, in cycles per pixel`;
  }

  function values(panel, x, y) {
    if (state.view === "spectrum") {
      const level = panel.power.data[4 * (y * width + x)], low = Number(section.dataset.low);
      return `${level ? "" : "≤ "}${decibel(low + (level / 255) * (Number(section.dataset.high) - low))}`;
    }
    const { canvas, data } = panel.pixels, row = Math.floor(((y + 0.5) * canvas.height) / height);
    const at = 4 * (row * canvas.width + Math.floor(((x + 0.5) * canvas.width) / width));
    const reference = panels.find((other) => other.name === state.reference);
    const found = [0, 1, 2].map((channel) => {
      if (state.view === "image" || panel.isOriginal || panel === reference) return String(data[at + channel]);
      const d = data[at + channel] - reference.pixels.data[at + channel];
      return d > 0 ? `+${d}` : String(d).replace("-", "−");
    });
    return found.join(" ");
  }

  function zoom(step, panel, point) {
    const level = limit(state.level + step, 0, factors.length - 1);
    if (level === state.level) return false;
    const [left, top] = origin(panels[0]), factor = factors[state.level], { canvas } = panel ?? panels[0];
    const [px, py] = point ?? [canvas.width / 2, canvas.height / 2];
    state.level = level;
    // The pixel under the pointer stays there
    state.x = (px - left) / factor - (px - canvas.width / 2) / factors[level];
    state.y = (py - top) / factor - (py - canvas.height / 2) / factors[level];
    draw();
    return true;
  }

  function position(canvas, event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
  }

  function setProbe(x, y) {
    state.probe = x >= 0 && y >= 0 && x < width && y < height ? [x, y] : null;
    draw();
  }

  function pointAt([px, py]) {
    const [left, top] = origin(panels[0]), factor = factors[state.level];
    setProbe(Math.floor((px - left) / factor), Math.floor((py - top) / factor));
  }

  function listen(panel) {
    const { canvas } = panel, pointers = new Map();
    let moved = 0, spread = 0, turned = 0;
    const apart = () => { const [a, b] = [...pointers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, position(canvas, event));
      moved = pointers.size === 1 ? 0 : Infinity;
      if (pointers.size === 2) spread = apart();
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = position(canvas, event), before = pointers.get(event.pointerId);
      if (!before) return pointAt(now);
      pointers.set(event.pointerId, now);
      if (pointers.size === 2) {
        const [a, b] = [...pointers.values()], ratio = apart() / spread;
        const step = ratio > 1.3 ? 1 : ratio < 1 / 1.3 ? -1 : 0;
        if (step) { zoom(step, panel, [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2]); spread = apart(); }
        return undefined;
      }
      moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
      state.x -= (now[0] - before[0]) / factors[state.level];
      state.y -= (now[1] - before[1]) / factors[state.level];
      return draw();
    });
    const release = (event) => pointers.delete(event.pointerId);
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", () => { if (!pointers.size) setProbe(-1, -1); });
    canvas.addEventListener("click", (event) => {
      if (moved > 6) return;
      pointAt(position(canvas, event));
      setReference(panel);
    });
    canvas.addEventListener("wheel", (event) => {
      const up = event.deltaY < 0;
      // At either end of the zoom the page scrolls
      if (up ? state.level === factors.length - 1 : state.level === 0) return;
      event.preventDefault();
      if (turned < 0 !== up) turned = 0;
      turned += event.deltaMode ? 50 * Math.sign(event.deltaY) : event.deltaY * (event.ctrlKey ? 6 : 1);
      if (Math.abs(turned) < 50) return;
      turned = 0;
      zoom(up ? 1 : -1, panel, position(canvas, event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 10 : 1;
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in moves) {
        const [x, y] = state.probe ?? [Math.floor(state.x), Math.floor(state.y)];
        const [dx, dy] = state.probe ? moves[event.key] : [0, 0];
        [state.x, state.y] = [limit(x + dx, 0, width - 1) + 0.5, limit(y + dy, 0, height - 1) + 0.5];
        setProbe(Math.floor(state.x), Math.floor(state.y));
      } else if (event.key === "+" || event.key === "=") zoom(1);
      else if (event.key === "-") zoom(-1);
      else if (event.key === "0") zoom(-state.level);
      else if (event.key === "Enter" || event.key === " ") setReference(panel);
      else return;
      event.preventDefault();
    });
  }

  document.documentElement.classList.add("js");
  byId("bar").hidden = byId("legend").hidden = false;
  byId("in").addEventListener("click", () => zoom(1));
  byId("out").addEventListener("click", () => zoom(-1));
  byId("whole").addEventListener("click", () => zoom(-state.level));
  byId("picture")?.addEventListener("change", (event) => show(Number(event.target.value)));
  byId("kind").addEventListener("change", update);
  byId("gain").addEventListener("change", update);
  document.querySelectorAll("[name=view]").forEach((input) => input.addEventListener("change", () => {
    state.view = input.value;
    update();
  }));
  window.addEventListener("resize", () => { layOut(); draw(); });
  // A browser restores the choices of a reloaded page
  state.view = document.querySelector("[name=view]:checked").value;
  show(Number(byId("picture")?.value ?? 0));
})();
