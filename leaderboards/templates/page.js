"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse($("#data").textContent);
  const tables = all("table.board");
  data.rows.forEach((row, number) => row.forEach((cell, place) => {
    if (cell === 0) row[place] = data.rows[number - 1][place]; // as in the row before
  }));

  // Sorting: better first, then worse first; what has no value comes last either way.
  const valueOf = (row, column) => row.cells[column].dataset.sort;
  function compare(first, second, sign) {
    if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
    const numbers = [Number(first), Number(second)];
    return sign * (numbers.some(Number.isNaN) ? first.localeCompare(second, "en") : numbers[0] - numbers[1]);
  }
  function sort(table, heading) {
    const now = heading.getAttribute("aria-sort");
    const first = heading.dataset.better || "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const next = now === first ? other : first;
    for (const cell of table.tHead.rows[0].cells) cell.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", next);
    const column = heading.cellIndex;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compare(valueOf(a, column), valueOf(b, column), next === "ascending" ? 1 : -1));
    table.tBodies[0].append(...rows);
    rove(table);
  }

  // Filtering.
  const controls = $("#controls");
  const matches = (name, words) => words.every((word) => name.toLowerCase().includes(word));
  const words = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
  function filter() {
    const rows = words($("#filter-rows"));
    const columns = words($("#filter-columns"));
    const withControls = $("#show-controls").checked;
    document.body.classList.toggle("no-intervals", !$("#show-intervals").checked);
    let shown = 0, total = 0;
    for (const table of tables) {
      const headings = [...table.tHead.rows[0].cells];
      const visible = headings.map((heading, place) => place === 0 || matches(heading.dataset.name, columns));
      headings.forEach((heading, place) => { heading.hidden = !visible[place]; });
      for (const row of table.tBodies[0].rows) {
        row.hidden = !matches(row.cells[0].dataset.sort, rows) || (!withControls && row.classList.contains("control"));
        [...row.cells].forEach((cell, place) => { cell.hidden = !visible[place]; });
        shown += !row.hidden;
        total += 1;
      }
      rove(table);
    }
    $("#count").textContent = `${shown} of ${total} rows`;
  }

  // One number of a table can be reached by Tab, the others from there by arrow keys.
  const numbers = (row) => all("button.number", row).filter((button) => !button.closest("[hidden]"));
  function rove(table, chosen) {
    const every = all("button.number", table);
    const first = chosen || every.find((button) => !button.closest("[hidden]"));
    for (const button of every) button.tabIndex = button === first ? 0 : -1;
  }
  function move(event) {
    const from = event.target.closest("button.number");
    const table = from && from.closest("table.board");
    if (!table || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) return;
    const row = from.closest("tr");
    let target;
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const rows = [...table.tBodies[0].rows].filter((other) => !other.hidden);
      const step = event.key === "ArrowUp" ? -1 : 1;
      const place = from.closest("td").cellIndex;
      for (let next = rows.indexOf(row) + step; rows[next] && !target; next += step) target = $("button.number", rows[next].cells[place]);
    } else {
      const line = numbers(row), place = line.indexOf(from);
      target = line[{ ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: line.length - 1 }[event.key]];
    }
    if (target) { event.preventDefault(); rove(table, target); target.focus(); }
  }

  // Provenance of a number.
  function explain(button) {
    const cells = data.rows[Number(button.dataset.row)];
    const entries = [...data.columns.map((name, place) => [name, cells[place]]), ...(data.places[button.dataset.row] || [])];
    $("#facts").replaceChildren(...entries.filter(([, value]) => value !== "").flatMap(([name, value]) => {
      const term = document.createElement("dt"), fact = document.createElement("dd");
      term.textContent = name;
      fact.textContent = value;
      return [term, fact];
    }));
    $("#details").showModal();
  }

  // The table as a file, byte for byte what interpeval writes.
  function download() {
    const quoted = (cell) => (/[,"\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
    const guarded = (cell, place) => (data.text.includes(place) && /^'*[=+\-@\t\r\n]/.test(cell) ? `'${cell}` : cell);
    const lines = [data.columns, ...data.rows.map((row) => row.map(guarded))];
    const text = lines.map((row) => row.map(quoted).join(",") + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "leaderboard.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // The gallery: scores below the heatmaps, and the order of the samples.
  function arrange(form) {
    const gallery = data.galleries[Number(form.dataset.gallery)];
    const table = $("table", form.nextElementSibling);
    const metric = gallery.metrics[Number($(".metric", form).value)];
    const explainer = Number($(".explainer", form).value);
    const order = $(".order", form).value;
    const rows = all("tbody tr", table);
    for (const row of rows) {
      for (const place of all(".score", row)) {
        const score = metric && metric.scores[Number(row.dataset.sample)][Number(place.dataset.explainer)];
        place.textContent = typeof score === "number" ? Number(score.toPrecision(3)).toString() : "";
      }
    }
    const key = (row) => (order && metric ? metric.scores[Number(row.dataset.sample)][explainer] : null);
    const sign = metric && (order === "best") === metric.higher ? -1 : 1;
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (typeof x !== "number" || typeof y !== "number") return (typeof x !== "number") - (typeof y !== "number") || a.dataset.sample - b.dataset.sample;
      return sign * (x - y) || a.dataset.sample - b.dataset.sample;
    });
    table.tBodies[0].append(...rows);
  }

  for (const form of all("form.controls")) {
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  controls.addEventListener("input", filter);
  $("#download").addEventListener("click", download);
  for (const form of all(".gallery-controls")) {
    form.addEventListener("change", () => arrange(form));
    arrange(form);
  }
  document.addEventListener("keydown", move);
  document.addEventListener("click", (event) => {
    const heading = event.target.closest("button.sort"), number = event.target.closest("button.number");
    if (heading) sort(heading.closest("table"), heading.closest("th"));
    if (number) { if (number.closest("table.board")) rove(number.closest("table"), number); explain(number); }
  });
  addEventListener("beforeprint", () => { for (const part of all("details")) part.open = true; });
  filter();
})();
