"use strict";
// The gallery of a report: cards, filters, search, order, and the panel of a task. Texts go in as text, never as markup.
(() => {
  const { make, count, differences, picture, redraw, showDigits } = Grids;
  const root = document.documentElement;
  const still = new URLSearchParams(location.search).has("picture"); // the page is opened to be drawn into a file
  const store = document.getElementById("tasks");
  if (still && (store || !location.hash)) stand("summary");
  if (!store) return;
  const tasks = JSON.parse(store.textContent);
  const grid = document.getElementById("cards");
  const NEAR = Number(grid.dataset.near); // cells by which a near miss is missed at most, unless another number is asked for
  const STILL_CARDS = 24; // of a picture
  const known = tasks.some((task) => task.known);
  const state = { filter: "all", order: known ? "close" : "margin", search: "", near: NEAR };

  // Pictures: the part of the page that the address names, whole, with its height for whoever draws it.

  function stand(part) {
    root.classList.add("still", part);
    root.dataset.height = Math.ceil(document.body.getBoundingClientRect().height);
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
      foot(task),
    ];
  }

  function foot(task) {
    const link = make("a", { href: `#task=${encodeURIComponent(task.id)}` }, "Link to this task");
    const folder = grid.dataset.folder;
    if (!folder) return make("p", { class: "foot" }, link);
    const id = /^[\w][\w.-]*$/.test(task.id) ? task.id : `'${task.id.replaceAll("'", "'\\''")}'`;
    return make("p", { class: "foot" }, link, make("span", {}, "In a terminal: ", make("code", {}, `python -m pipeline show ${id} --run ${folder}`)));
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
      make("ul", { class: "why" }, ...reasons(test).map((reason) => make("li", {}, reason))),
      ...drafts(test),
    ].filter(Boolean);
  }

  function reasons(test) {
    const missed = test.attempts.every(({ verdict: judged }) => judged && !judged.right);
    const told = missed ? test.attempts.map(({ why }, number) => make("span", {}, make("strong", {}, `Attempt ${number + 1}: `), why)) : [];
    return [...told, ...(test.votes ? [test.votes] : [])];
  }

  function drafts(test) {
    if (test.drafts.length < 2) return [];
    const unit = test.unit === "cycle" ? "Cycle" : "Segment";
    const groups = []; // of neighboring segments with the same canvas
    test.drafts.forEach((draft, number) => {
      if (draft.grid === null) groups.at(-1).last = { number, p: draft.p };
      else groups.push({ grid: draft.grid, verdict: draft.verdict, first: number, last: { number, p: draft.p } });
    });
    const strip = groups.map((group, index) => {
      const before = index ? groups[index - 1].grid : null;
      const changed = differences(group.grid, before);
      const [first, last] = [group.first + 1, group.last.number + 1];
      const title = first === last ? `${unit} ${first}` : `${unit}s ${first} to ${last}`;
      const halting = group.last.p === null ? "" : `halting ${group.last.p.toFixed(2)}`;
      const note = changed ? `${count(changed.length, "cell")} changed` : "first draft";
      const judged = group.verdict && { text: `${group.verdict.right ? "✓" : "✗"} ${group.verdict.text}`, kind: group.verdict.right ? "good" : "bad" };
      return figure(title, group.grid, [halting, note, judged], { room: 130, dots: changed });
    });
    const each = unit === "Cycle" ? "cycle of its only segment" : "segment";
    const text = `What the network would have answered after each ${each}, for the task as it is: one view of those that vote. `
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
    ["first", "Attempt 1 alone right", (task) => task.tags.includes("first"), true],
    ["second", "Attempt 2 alone right", (task) => task.tags.includes("second"), true],
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
  const tools = document.getElementById("tools");
  const told = document.getElementById("count");
  const buttons = new Map();

  function show() {
    const [, label, holds] = FILTERS.find(([name]) => name === state.filter);
    const wanted = state.search.trim().toLowerCase();
    const chosen = cards.filter(({ task }) => holds(task) && task.id.toLowerCase().includes(wanted));
    chosen.sort(ORDERS.find(([name]) => name === state.order)[2]);
    const found = chosen.length;
    if (still) chosen.splice(STILL_CARDS);
    grid.replaceChildren(...chosen.map(({ article }) => article));
    for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(name === state.filter));
    for (const [name, , test] of FILTERS) buttons.get(name).lastChild.textContent = tasks.filter(test).length;
    const what = state.filter === "all" ? "" : `: ${label.toLowerCase()}${state.filter === "near" ? `, by ${count(state.near, "cell")} or fewer` : ""}`;
    const part = found > chosen.length ? `, the first ${chosen.length} shown` : "";
    told.textContent = found ? `${found} of ${count(tasks.length, "task")}${what}${part}` : `No task of ${tasks.length} fits${what}`;
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
  digits.addEventListener("change", () => showDigits(digits.checked, grid));
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

  // Keys within the gallery: arrows lead from task to task, Escape closes the one that the focus is in.

  grid.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const shown = [...grid.children];
    const place = shown.findIndex((article) => article.contains(event.target));
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") {
      const entry = cards.find(({ article }) => article === shown[place]);
      toggle(entry, false);
      entry.button.focus();
    } else if (step && event.target.matches(".open") && shown[place + step]) {
      event.preventDefault();
      shown[place + step].querySelector(".open").focus();
    }
  });

  // Addresses: #task=ID opens a task, #filter=NAME shows those of a filter.

  function asked(name) {
    if (!location.hash.startsWith(`#${name}=`)) return null;
    try { return decodeURIComponent(location.hash.slice(name.length + 2)); } catch { return null; }
  }

  function follow() {
    const [filter, id] = [asked("filter"), asked("task")];
    const entry = cards.find(({ task }) => task.id === id);
    if (!entry && !buttons.has(filter)) return;
    Object.assign(state, { filter: entry ? "all" : filter, search: "" });
    search.value = "";
    show();
    if (!entry) {
      document.getElementById("gallery").scrollIntoView({ block: "start" });
      buttons.get(filter).focus({ preventScroll: true });
      return;
    }
    toggle(entry, true);
    entry.article.scrollIntoView({ block: "start" });
    entry.button.focus({ preventScroll: true });
  }

  window.addEventListener("hashchange", follow);
  window.addEventListener("beforeprint", () => redraw(grid, true));
  if (!still) follow();
  else if (location.hash) pose();

  function pose() {
    const [filter, id] = [asked("filter"), asked("task")];
    const entry = cards.find(({ task }) => task.id === id);
    if (!entry && !buttons.has(filter)) {
      delete root.dataset.height; // there is nothing to draw
      return;
    }
    if (entry) {
      grid.replaceChildren(entry.article);
      toggle(entry, true);
    } else choose(filter);
    root.classList.remove("summary");
    stand(entry ? "one" : "many");
    redraw(grid, true);
  }
})();
