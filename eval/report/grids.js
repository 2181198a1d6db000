"use strict";
// The grids of a report: a canvas each, drawn when it comes near the screen, with a text for those who do not see it.
const Grids = (() => {
  const COLORS = ["#000000", "#0074D9", "#FF4136", "#2ECC40", "#FFDC00", "#AAAAAA", "#F012BE", "#FF851B", "#7FDBFF", "#870C25"];
  const DARK = new Set(["0", "1", "9"]); // digits on these are white

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== ""));
    return element;
  }

  const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

  const drawings = new WeakMap();
  let digits = false;
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "300px" });

  function differences(grid, other) {
    if (!grid || !other) return null;
    const [rows, others] = [grid.split("|"), other.split("|")];
    if (rows.length !== others.length || rows[0].length !== others[0].length) return null;
    const places = [];
    rows.forEach((row, y) => [...row].forEach((sign, x) => { if (sign !== others[y][x]) places.push([y, x]); }));
    return places;
  }

  function describe(title, rows, crosses, dots) {
    const size = `${title}: ${count(rows.length, "row")}, ${count(rows[0].length, "column")}`;
    const cells = rows.length * rows[0].length <= 100 ? `. ${rows.map((row) => [...row].join(" ")).join(" / ")}` : "";
    const say = (places, word) => {
      if (!places || !places.length) return "";
      const named = places.slice(0, 10).map(([y, x]) => `row ${y + 1} column ${x + 1}`).join(", ");
      return `. ${word}: ${named}${places.length > 10 ? ` and ${places.length - 10} more` : ""}`;
    };
    return size + cells + say(crosses, "Wrong") + say(dots, "Changed");
  }

  function picture(title, grid, room, { crosses = null, dots = null } = {}) {
    const rows = grid.split("|");
    const cell = Math.max(room < 100 ? 2 : 7, Math.min(room < 100 ? 13 : 26, Math.floor(room / Math.max(rows.length, rows[0].length))));
    const canvas = make("canvas", { role: "img", "aria-label": describe(title, rows, crosses, dots) });
    canvas.style.width = `${rows[0].length * cell + 1}px`;
    canvas.style.aspectRatio = `${rows[0].length * cell + 1} / ${rows.length * cell + 1}`;
    drawings.set(canvas, { rows, cell, crosses, dots, drawn: false });
    watcher.observe(canvas);
    return canvas;
  }

  function draw(canvas) {
    const drawing = drawings.get(canvas);
    const { rows, cell, crosses, dots } = drawing;
    drawing.drawn = true;
    const scale = Math.max(1, window.devicePixelRatio || 1);
    canvas.width = Math.round((rows[0].length * cell + 1) * scale);
    canvas.height = Math.round((rows.length * cell + 1) * scale);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    rows.forEach((row, y) => [...row].forEach((sign, x) => drawCell(pen, sign, x * cell, y * cell, cell)));
    if (cell >= 4) {
      pen.fillStyle = "#555555";
      for (let x = 0; x <= rows[0].length; x++) pen.fillRect(x * cell, 0, 1, rows.length * cell + 1);
      for (let y = 0; y <= rows.length; y++) pen.fillRect(0, y * cell, rows[0].length * cell + 1, 1);
    }
    for (const [y, x] of crosses || []) mark(pen, x * cell, y * cell, cell, true);
    for (const [y, x] of dots || []) mark(pen, x * cell, y * cell, cell, false);
  }

  function drawCell(pen, sign, left, top, cell) {
    if (sign === ".") return; // padding: the page shows
    if (sign === "#") { // border: hatched
      pen.fillStyle = "#8E8E93";
      pen.fillRect(left, top, cell, cell);
      pen.strokeStyle = "#D8D8DC";
      pen.lineWidth = Math.max(1, cell / 8);
      pen.beginPath();
      pen.moveTo(left, top + cell);
      pen.lineTo(left + cell, top);
      pen.stroke();
      return;
    }
    pen.fillStyle = COLORS[Number(sign)];
    pen.fillRect(left, top, cell, cell);
    if (digits && cell >= 7) {
      pen.fillStyle = DARK.has(sign) ? "#FFFFFF" : "#000000";
      pen.font = `${Math.floor(0.62 * cell)}px system-ui, sans-serif`;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.fillText(sign, left + cell / 2 + 0.5, top + cell / 2 + 1);
    }
  }

  function mark(pen, left, top, cell, cross) {
    const [inset, middle] = [0.27 * cell, cell / 2];
    for (const [color, width] of [["#FFFFFF", Math.max(3, cell / 4.5)], ["#000000", Math.max(1.2, cell / 10)]]) { // shows on all ten colors
      pen.strokeStyle = color;
      pen.lineWidth = width;
      pen.lineCap = "round";
      pen.beginPath();
      if (cross) {
        pen.moveTo(left + inset + 0.5, top + inset + 0.5);
        pen.lineTo(left + cell - inset + 0.5, top + cell - inset + 0.5);
        pen.moveTo(left + cell - inset + 0.5, top + inset + 0.5);
        pen.lineTo(left + inset + 0.5, top + cell - inset + 0.5);
      } else {
        pen.arc(left + middle + 0.5, top + middle + 0.5, Math.max(1, cell / 6), 0, 2 * Math.PI);
      }
      pen.stroke();
    }
  }

  function redraw(root, all) {
    for (const canvas of root.querySelectorAll("canvas")) if (all || drawings.get(canvas).drawn) draw(canvas);
  }

  function showDigits(shown, root) {
    digits = shown;
    redraw(root, false);
  }

  return { make, count, differences, picture, redraw, showDigits };
})();
