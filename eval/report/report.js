"use strict";
// The gallery of a report: cards, filters, search, order, and the panel of a task. Texts go in as text, never as markup.
(() => {
  const COLORS = ["#000000", "#0074D9", "#FF4136", "#2ECC40", "#FFDC00", "#AAAAAA", "#F012BE", "#FF851B", "#7FDBFF", "#870C25"];
  const DARK = new Set(["0", "1", "9"]); // digits on these are white
  const NEAR = 5; // cells by which a near miss is missed at most, unless another number is asked for
  const store = document.getElementById("tasks");
  if (!store) return;
  const tasks = JSON.parse(store.textContent);
  const known = tasks.some((task) => task.known);
  const drafted = tasks.some((task) => task.tests.some((test) => test.drafts.length > 1));
  const state = { filter: "all", order: known ? "close" : "margin", search: "", near: NEAR, digits: false };

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

  // Grids: a canvas each, drawn when it comes near the screen.

  const drawings = new WeakMap();
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
    if (state.digits && cell >= 7) {
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

  // Verdicts: a sign, a word and a color each.

  function verdict(task) {
    if (!task.known) return ["?", "unknown"];
    if (task.tags.includes("solved")) return ["✓", "good"];
    if (task.tags.includes("part")) return ["◐", "near"];
    return task.missed !== null && task.missed <= NEAR ? ["≈", "near"] : ["✗", "bad"];
  }

  const sized = (grid) => { const rows = grid.split("|"); return `${rows.length} × ${rows[0].length}`; };

  function figure(title, grid, notes, options = {}, kind = "") {
    const body = grid
      ? picture(title, grid, options.room || 230, options)
      : make("p", { class: "nothing" }, "no grid");
    const head = make("span", { class: "title" }, title);
    const lines = notes.filter(Boolean).map((note) => make("span", { class: note.kind || "quiet" }, note.text || note));
    return make("figure", { class: `grid ${kind}` }, make("figcaption", {}, head, ...lines), body);
  }

  const arrow = () => make("span", { class: "arrow", "aria-hidden": "true" }, "→");

  function voted(attempt, test, withHalting = true) {
    if (attempt.votes === null) return "votes not known";
    if (attempt.votes === 0) return "a fallback, not predicted";
    const halting = attempt.p === null || !withHalting ? "" : `, halting ${attempt.p.toFixed(2)}`;
    return `${attempt.votes} of ${count(test.views, "view")}${halting}`;
  }

  // The panel of a task: everything there is about it.

  function panel(task) {
    const demonstrations = task.train.map(([input, output], number) => make("div", { class: "pair" },
      figure(`Input ${number + 1}`, input, [sized(input)], { room: 190 }), arrow(),
      figure(`Output ${number + 1}`, output, [sized(output)], { room: 190 })));
    return [
      make("h4", {}, "Demonstrations"),
      make("div", { class: "row" }, ...demonstrations),
      ...task.tests.flatMap((test, number) => testSection(task, test, number)),
      make("p", { class: "foot" }, make("a", { href: `#task=${encodeURIComponent(task.id)}` }, "Link to this task")),
    ];
  }

  function testSection(task, test, number) {
    const title = task.tests.length > 1 ? `Test ${number + 1} of ${task.tests.length}` : "Test";
    const attempts = test.attempts.map((attempt, index) => {
      const judged = attempt.verdict;
      const kind = judged ? (judged.right ? "right" : "wrong") : "";
      const said = judged && { text: `${judged.right ? "✓" : "✗"} ${judged.text}`, kind: judged.right ? "good" : "bad" };
      const notes = [voted(attempt, test), said || (attempt.grid && sized(attempt.grid))];
      return figure(`Attempt ${index + 1}`, attempt.grid, notes, { crosses: judged ? differences(attempt.grid, test.truth) : null }, kind);
    });
    const truth = test.truth && figure("Test output", test.truth, [sized(test.truth), "what is right"], {}, "truth");
    return [
      make("h4", {}, title),
      make("div", { class: "row asked" }, figure("Test input", test.input, [sized(test.input)]), arrow(), ...attempts, truth),
      test.votes ? make("p", { class: "quiet" }, test.votes) : null,
      ...drafts(test),
    ].filter(Boolean);
  }

  function drafts(test) {
    if (!test.drafts.length) return [];
    if (test.drafts.length === 1) {
      return drafted ? [] : [make("p", { class: "quiet" }, "The network was asked for one segment, so there are no drafts to compare.")];
    }
    const groups = []; // of neighboring segments with the same canvas
    test.drafts.forEach((draft, number) => {
      if (draft.grid === null) groups.at(-1).last = { number, p: draft.p };
      else groups.push({ grid: draft.grid, verdict: draft.verdict, first: number, last: { number, p: draft.p } });
    });
    const strip = groups.map((group, index) => {
      const before = index ? groups[index - 1].grid : null;
      const changed = differences(group.grid, before);
      const [first, last] = [group.first + 1, group.last.number + 1];
      const title = first === last ? `Segment ${first}` : `Segments ${first} to ${last}`;
      const halting = group.last.p === null ? "" : `halting ${group.last.p.toFixed(2)}`;
      const note = changed ? `${count(changed.length, "cell")} changed` : "first draft";
      const judged = group.verdict && { text: `${group.verdict.right ? "✓" : "✗"} ${group.verdict.text}`, kind: group.verdict.right ? "good" : "bad" };
      return figure(title, group.grid, [halting, note, judged], { room: 130, dots: changed });
    });
    const text = "What the network would have answered after each segment, for the task as it is (one view of those that vote). "
      + "A ring marks a cell that changed. Striped cells are the border by which it says where the grid ends.";
    return [make("h5", {}, "Drafts"), make("p", { class: "quiet" }, text), make("div", { class: "row drafts" }, ...strip)];
  }

  // Cards.

  function card(task, number) {
    const [sign, kind] = verdict(task);
    const test = task.tests.find((each) => task.known && each.attempts.every((attempt) => !attempt.verdict.right)) || task.tests[0];
    const wrong = (attempt) => (differences(attempt.grid, test.truth) || { length: Infinity }).length;
    const best = test.attempts.reduce((one, other) => (wrong(other) < wrong(one) ? other : one));
    const name = `Attempt ${test.attempts.indexOf(best) + 1}`;
    const missed = test.truth && !best.verdict.right;
    const room = missed ? 56 : 72;
    const thumbs = make("div", { class: "thumbs" }, picture("Test input", test.input, room), arrow(),
      best.grid ? picture(name, best.grid, room, { crosses: differences(best.grid, test.truth) }) : "no grid",
      ...(missed ? [make("span", { class: "versus", "aria-hidden": "true" }, "≠"), picture("Test output", test.truth, room)] : []));
    const inner = make("div", { class: "panel", id: `panel-${number}`, hidden: true });
    const button = make("button", { type: "button", class: "open", "aria-expanded": "false", "aria-controls": inner.id, onclick: () => toggle(entry) }, task.id);
    const article = make("article", { class: `card ${kind}` },
      make("div", { class: "head" },
        make("h3", {}, button),
        make("p", { class: `verdict ${kind}` }, make("span", { "aria-hidden": "true" }, `${sign} `), task.verdict),
        thumbs,
        make("p", { class: "quiet" }, `${name}: ${voted(best, test, false)}`)),
      inner);
    const entry = { task, article, button, inner };
    return entry;
  }

  function toggle(entry, open = entry.inner.hidden) {
    entry.button.setAttribute("aria-expanded", String(open));
    entry.inner.hidden = !open;
    entry.article.classList.toggle("expanded", open);
    entry.inner.replaceChildren(...(open ? panel(entry.task) : []));
  }

  // Filters, search and order.

  const FILTERS = [
    ["all", "All", () => true, false],
    ["solved", "Solved", (task) => task.tags.includes("solved"), true],
    ["first", "Attempt 1 right", (task) => task.tags.includes("first"), true],
    ["second", "Attempt 2 right", (task) => task.tags.includes("second"), true],
    ["part", "Partly solved", (task) => task.tags.includes("part"), true],
    ["unsolved", "Not solved", (task) => task.tags.includes("unsolved"), true],
    ["near", "Near miss", (task) => task.missed > 0 && task.missed <= state.near, true],
    ["size", "Wrong size", (task) => task.tags.includes("size"), true],
    ["disagree", "No agreement", (task) => task.tags.includes("disagree"), false],
    ["fallback", "No prediction", (task) => task.tags.includes("fallback"), false],
  ].filter(([, , , judged]) => known || !judged);

  const byId = (a, b) => (a.task.id < b.task.id ? -1 : a.task.id > b.task.id ? 1 : 0);
  const closeness = ({ task }) => (!task.known ? 4e9 : task.tags.includes("solved") ? 3e9 : task.missed === null ? 2e9 : task.missed);
  const margin = ({ task }, missing) => (task.margin === null ? missing : task.margin);
  const ORDERS = [
    ["close", "How close, nearest misses first", (a, b) => closeness(a) - closeness(b) || byId(a, b)],
    ["margin", "Margin of the votes, largest first", (a, b) => margin(b, -2) - margin(a, -2) || byId(a, b)],
    ["tight", "Margin of the votes, smallest first", (a, b) => margin(a, 2) - margin(b, 2) || byId(a, b)],
    ["id", "Task id", byId],
  ].filter(([name]) => known || name !== "close");

  const cards = tasks.map(card);
  const grid = document.getElementById("cards");
  const tools = document.getElementById("tools");
  const told = document.getElementById("count");
  const buttons = new Map();

  function show() {
    const [, label, holds] = FILTERS.find(([name]) => name === state.filter);
    const wanted = state.search.trim().toLowerCase();
    const chosen = cards.filter(({ task }) => holds(task) && task.id.toLowerCase().includes(wanted));
    chosen.sort(ORDERS.find(([name]) => name === state.order)[2]);
    grid.replaceChildren(...chosen.map(({ article }) => article));
    for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(name === state.filter));
    for (const [name, , test] of FILTERS) buttons.get(name).lastChild.textContent = tasks.filter(test).length;
    const what = state.filter === "all" ? "" : `: ${label.toLowerCase()}${state.filter === "near" ? `, by ${count(state.near, "cell")} or fewer` : ""}`;
    told.textContent = chosen.length ? `${chosen.length} of ${count(tasks.length, "task")}${what}` : `No task of ${tasks.length} fits${what}`;
  }

  function choose(name) { state.filter = name; show(); }

  for (const [name, label] of FILTERS) {
    const amount = make("span", { class: "amount" });
    buttons.set(name, make("button", { type: "button", "aria-pressed": "false", onclick: () => choose(name) }, `${label} `, amount));
  }
  const near = make("input", { type: "number", min: "1", max: "900", value: String(state.near), id: "near" });
  near.addEventListener("input", () => {
    state.near = Math.max(1, Math.floor(Number(near.value)) || 1);
    state.filter = "near";
    show();
  });
  const search = make("input", { type: "search", id: "search", placeholder: "part of an id", autocomplete: "off", spellcheck: "false" });
  search.addEventListener("input", () => { state.search = search.value; show(); });
  const order = make("select", { id: "order" }, ...ORDERS.map(([name, label]) => make("option", { value: name }, label)));
  order.addEventListener("change", () => { state.order = order.value; show(); });
  const digits = make("input", { type: "checkbox", id: "digits" });
  digits.addEventListener("change", () => {
    state.digits = digits.checked;
    for (const canvas of grid.querySelectorAll("canvas")) if (drawings.get(canvas).drawn) draw(canvas);
  });
  tools.append(
    make("div", { class: "filters", role: "group", "aria-label": "Show" }, ...buttons.values()),
    make("div", { class: "fields" },
      make("label", {}, "Search ", search),
      make("label", {}, "Order ", order),
      ...(known ? [make("label", {}, "Near miss: up to ", near, " cells")] : []),
      make("label", {}, digits, " Numbers in cells")),
  );
  tools.hidden = false;
  show();

  function follow() {
    if (!location.hash.startsWith("#task=")) return;
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(6)); } catch { return; }
    const entry = cards.find(({ task }) => task.id === id);
    if (!entry) return;
    Object.assign(state, { filter: "all", search: "" });
    search.value = "";
    show();
    toggle(entry, true);
    entry.article.scrollIntoView({ block: "start" });
    entry.button.focus({ preventScroll: true });
  }
  window.addEventListener("hashchange", follow);
  follow();
})();
