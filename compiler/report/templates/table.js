"use strict";
// Tables: sorted, searched and paged, with one page of rows in the document at a time. Cells are text nodes, never HTML.
function makeTable(root) {
  const store = root.querySelector('script[type="application/json"]');
  if (!store) return;
  const { rows, align, numbers } = JSON.parse(store.textContent);
  const size = Number(root.dataset.page);
  const body = root.querySelector("tbody");
  const pages = root.querySelector(".pages");
  const heads = [...root.querySelectorAll("th")];
  const search = root.querySelector('input[type="search"]');
  const collator = new Intl.Collator("en", { numeric: true });
  let haystack = null;
  let order = rows.map((_, index) => index);
  let page = 0;
  let sorted = { column: -1, up: true };

  function element(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  }

  function show(from, count) {
    const fragment = document.createDocumentFragment();
    for (const index of order.slice(from, from + count)) {
      const row = document.createElement("tr");
      rows[index].forEach((text, column) => {
        const cell = document.createElement("td");
        cell.className = align[column];
        cell.append(element("bdi", text));
        row.append(cell);
      });
      fragment.append(row);
    }
    body.replaceChildren(fragment);
  }

  function turn(step) {
    page += step;
    draw();
  }

  function button(text, step, disabled) {
    const made = element("button", text);
    made.type = "button";
    made.disabled = disabled;
    made.addEventListener("click", () => turn(step));
    return made;
  }

  function draw() {
    const last = Math.max(0, Math.ceil(order.length / size) - 1);
    page = Math.min(Math.max(page, 0), last);
    show(page * size, size);
    pages.replaceChildren();
    if (order.length <= size && order.length === rows.length) return;
    const first = order.length ? page * size + 1 : 0;
    const range = `${first.toLocaleString("en")} to ${Math.min((page + 1) * size, order.length).toLocaleString("en")}`;
    const found = order.length < rows.length ? " found" : "";
    pages.append(`${range} of ${order.length.toLocaleString("en")}${found} `);
    if (last > 0) pages.append(button("Previous", -1, page === 0), button("Next", 1, page === last));
  }

  function compare(a, b) {
    const { column, up } = sorted;
    const values = numbers[column];
    if (!values) return (up ? 1 : -1) * collator.compare(rows[a][column], rows[b][column]);
    if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null);
    return (up ? 1 : -1) * (values[a] - values[b]);
  }

  function arrange() {
    const wanted = search ? search.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
    haystack ??= rows.map((row) => row.join("\n").toLowerCase());
    order = rows.map((_, index) => index).filter((index) => wanted.every((word) => haystack[index].includes(word)));
    if (sorted.column >= 0) order.sort((a, b) => compare(a, b) || a - b);
    page = 0;
    draw();
  }

  function sortBy(column) {
    const first = numbers[column] ? false : true; // numbers: the largest first
    sorted = { column, up: sorted.column === column ? !sorted.up : first };
    heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", sorted.up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    arrange();
  }

  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sortBy(column)));
  if (search) search.addEventListener("input", arrange);
  window.addEventListener("beforeprint", () => show(0, 200));
  window.addEventListener("afterprint", draw);
  draw();
}
document.querySelectorAll(".table").forEach(makeTable);
