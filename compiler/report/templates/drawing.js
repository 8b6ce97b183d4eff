// Graphs: one, or two side by side in common rows. Equal runs are folded to one box each. What is folded is decided by the
// reader, so rows, order and places are computed here, and only what is in sight is in the document.
const BOX = { width: 172, height: 40, apart: 20, row: 68, lane: 12, margin: 24, head: 44, gutter: 110 };
const LONG = 40; // rows: a longer edge keeps no lane free for itself
const CHUNK = 8; // rows whose edges are looked up together
const SVG = "http://www.w3.org/2000/svg";
const SEPARATION = (a, b) => (a.width + b.width) / 2 + BOX.apart;

// ---- Items: a node, or a folded run of nodes -------------------------------------------------------------------------

function makeItems(sides, links, opened) {
  const items = [];
  const owner = sides.map((side) => new Array(side.names.length));
  sides.forEach((side, s) => {
    side.folds.forEach((nodes, fold) => {
      if (opened[s].has(fold)) return;
      const item = newItem(items, s, nodes, fold);
      nodes.forEach((node) => (owner[s][node] = item));
    });
    side.names.forEach((_, node) => (owner[s][node] ??= newItem(items, s, [node], -1)));
    side.inputs.forEach((sources, node) => {
      for (const source of sources) connect(owner[s][source], owner[s][node]);
    });
  });
  for (const [left, right] of links) {
    const a = owner[0][left], b = owner[1][right];
    a.partners.set(b, (a.partners.get(b) ?? 0) + 1);
    b.partners.set(a, (b.partners.get(a) ?? 0) + 1);
  }
  return { items, owner };
}

function newItem(items, side, nodes, fold) {
  const item = {
    id: items.length, side, nodes, fold, partners: new Map(), before: new Set(), after: new Set(),
    row: 0, x: 0, width: BOX.width, mate: null,
  };
  items.push(item);
  return item;
}

function connect(from, to) {
  if (from === to) return;
  from.after.add(to);
  to.before.add(from);
}

// ---- Rows: longest paths over both graphs at once, with a matched pair in one row -------------------------------------

function pairUp(items) {
  for (const item of items) {
    if (item.side !== 0 || !item.partners.size) continue;
    const [best] = [...item.partners].sort((a, b) => b[1] - a[1] || b[0].id - a[0].id)[0];
    const [back] = [...best.partners].sort((a, b) => b[1] - a[1] || b[0].id - a[0].id)[0];
    if (back === item) { item.mate = best; best.mate = item; }
  }
}

function assignRows(items) {
  const waiting = new Map(items.map((item) => [item, item.before.size]));
  const free = (item) => waiting.get(item) === 0;
  const ready = items.filter((item) => free(item) && (!item.mate || (item.side === 0 && free(item.mate))));
  while (waiting.size) {
    if (!ready.length) { // pairs in another order than their graphs: those of what is left go their own ways
      for (const item of waiting.keys()) item.mate = null;
      ready.push(...[...waiting.keys()].filter(free));
    }
    const item = ready.pop();
    const pair = item.mate ? [item, item.mate] : [item];
    const row = Math.max(...pair.map((one) => one.row));
    for (const one of pair) {
      one.row = row;
      waiting.delete(one);
    }
    for (const one of pair) {
      for (const next of one.after) {
        next.row = Math.max(next.row, row + 1);
        waiting.set(next, waiting.get(next) - 1);
        if (free(next) && (!next.mate || free(next.mate))) ready.push(next);
      }
    }
  }
  for (const item of items) { // what nothing feeds stands right above what it feeds
    const pair = item.mate ? [item, item.mate] : [item];
    if (pair.some((one) => one.before.size || !one.after.size)) continue;
    const row = Math.min(...pair.flatMap((one) => [...one.after].map((next) => next.row))) - 1;
    pair.forEach((one) => (one.row = row));
  }
}

// ---- Order within rows, and places: lanes for edges that pass a row; neighbours pull (Sugiyama et al., 1981) -----------

function makeLayers(items, side, rows) {
  const layers = Array.from({ length: rows }, () => []);
  const edges = [];
  const own = items.filter((item) => item.side === side);
  for (const item of own) {
    item.up = []; item.down = [];
    layers[item.row].push(item);
  }
  for (const item of own) {
    for (const next of item.after) {
      const span = next.row - item.row;
      const points = [item];
      if (span <= LONG) {
        for (let row = item.row + 1; row < next.row; row += 1) {
          const lane = { width: BOX.lane, row, x: 0, up: [], down: [] };
          layers[row].push(lane);
          points.push(lane);
        }
      }
      points.push(next);
      if (span <= LONG) points.slice(1).forEach((point, i) => { points[i].down.push(point); point.up.push(points[i]); });
      edges.push({ points, first: item.row, last: next.row, from: item, to: next });
    }
  }
  return { layers, edges };
}

function mean(points, others, otherwise) {
  let sum = 0;
  for (const point of points) sum += point.x;
  for (const point of others) sum += point.x;
  const count = points.length + others.length;
  return count ? sum / count : otherwise;
}

const NONE = [];
const sweeps = (layers, most) => (layers.length > 1000 ? most / 2 : most); // of tall graphs little is in sight at once

function orderLayers(layers) {
  const number = (layer) => layer.forEach((point, index) => (point.x = index));
  layers.forEach(number);
  for (let sweep = 0; sweep < sweeps(layers, 6); sweep += 1) {
    const downwards = sweep % 2 === 0;
    for (const layer of downwards ? layers : [...layers].reverse()) {
      for (const point of layer) point.wish = mean(downwards ? point.up : point.down, NONE, point.x);
      layer.sort((a, b) => a.wish - b.wish);
      number(layer);
    }
  }
}

function placeLayers(layers) {
  for (const layer of layers) {
    let right = 0;
    for (const point of layer) { point.x = right + point.width / 2; right += point.width + BOX.apart; }
    for (const point of layer) point.x -= right / 2;
  }
  for (let sweep = 0; sweep < sweeps(layers, 8); sweep += 1) {
    for (const layer of sweep % 2 ? [...layers].reverse() : layers) {
      const wishes = layer.map((point) => mean(point.up, point.down, point.x));
      const forth = [], back = [];
      layer.forEach((point, i) => {
        forth[i] = i ? Math.max(wishes[i], forth[i - 1] + SEPARATION(layer[i - 1], point)) : wishes[i];
      });
      for (let i = layer.length - 1; i >= 0; i -= 1) {
        back[i] = i + 1 < layer.length ? Math.min(wishes[i], back[i + 1] - SEPARATION(layer[i], layer[i + 1])) : wishes[i];
      }
      layer.forEach((point, i) => (point.x = (forth[i] + back[i]) / 2));
    }
  }
}

function layOut(sides, links, opened) {
  const { items, owner } = makeItems(sides, links, opened);
  pairUp(items);
  assignRows(items);
  const rows = items.reduce((most, item) => Math.max(most, item.row), 0) + 1;
  let left = BOX.margin;
  const titles = [];
  const edges = [];
  sides.forEach((side, s) => {
    const made = makeLayers(items, s, rows);
    orderLayers(made.layers);
    placeLayers(made.layers);
    let low = Infinity, high = -Infinity;
    for (const layer of made.layers) for (const point of layer) {
      low = Math.min(low, point.x - point.width / 2);
      high = Math.max(high, point.x + point.width / 2);
    }
    if (low > high) low = high = 0;
    const wide = Math.max(high - low, BOX.width);
    const centre = left + wide / 2;
    const shift = left - low + (wide - (high - low)) / 2;
    for (const layer of made.layers) for (const point of layer) point.x += shift;
    left += wide + (s + 1 < sides.length ? BOX.gutter : BOX.margin);
    edges.push(...made.edges);
    titles.push({ x: centre, title: side.title });
  });
  const layers = Array.from({ length: rows }, () => []);
  items.forEach((item) => layers[item.row].push(item));
  const chunks = Array.from({ length: Math.ceil(rows / CHUNK) }, () => []);
  for (const edge of edges) {
    for (let chunk = Math.floor(edge.first / CHUNK); chunk <= Math.floor(edge.last / CHUNK); chunk += 1) chunks[chunk].push(edge);
  }
  return { items, owner, layers, chunks, width: left, height: rows * BOX.row + BOX.head, titles };
}

// ---- Drawing ---------------------------------------------------------------------------------------------------------

function svg(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const top_ = (point) => point.row * BOX.row + BOX.head;
const middle = (text, most) => {
  const letters = [...text];
  return letters.length <= most ? text : `${letters.slice(0, most / 2).join("")}…${letters.slice(1 - most / 2).join("")}`;
};

function edgePath(edge) {
  const points = edge.points;
  let path = "";
  for (let i = 1; i < points.length; i += 1) {
    const from = points[i - 1], to = points[i];
    const y0 = top_(from) + BOX.height, y1 = top_(to);
    const bend = Math.min((y1 - y0) / 2, BOX.row);
    path += i === 1 ? `M${from.x.toFixed(1)} ${y0}` : `V${y0}`;
    path += `C${from.x.toFixed(1)} ${y0 + bend} ${to.x.toFixed(1)} ${y1 - bend} ${to.x.toFixed(1)} ${y1}`;
  }
  return path;
}

function makeDrawing(root) {
  const { sides, links, states } = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const canvas = root.querySelector(".canvas"), extent = root.querySelector(".extent"), surface = root.querySelector("svg");
  const details = root.querySelector(".details"), search = root.querySelector("input"), found = root.querySelector(".found");
  const opened = sides.map(() => new Set());
  const foldOf = sides.map((side) => {
    const of = new Map();
    side.folds.forEach((nodes, fold) => nodes.forEach((node) => of.set(node, fold)));
    return of;
  });
  const partners = sides.map(() => new Map());
  for (const [left, right] of links) {
    (partners[0].get(left) ?? partners[0].set(left, []).get(left)).push(right);
    (partners[1].get(right) ?? partners[1].set(right, []).get(right)).push(left);
  }
  let plan = null, zoom = 1, selected = null, drawn = "", hits = [], hit = -1;

  const stateOf = (item) => (item.fold >= 0 ? "run" : sides[item.side].states[item.nodes[0]]);

  function lines(item) {
    const side = sides[item.side];
    if (item.fold < 0) return [side.ops[item.nodes[0]], side.names[item.nodes[0]]];
    const counts = new Map();
    for (const node of item.nodes) counts.set(side.ops[node], (counts.get(side.ops[node]) ?? 0) + 1);
    const most = [...counts].sort((a, b) => b[1] - a[1]).map(([op, n]) => `${op} ${n}`);
    return [`${item.nodes.length.toLocaleString("en")} equal nodes`, most.join(", ")];
  }

  function box(item) {
    const [first, second] = lines(item);
    const group = svg("g", {
      class: `node ${stateOf(item)}`, "data-item": item.id, tabindex: 0, role: "button",
      transform: `translate(${(item.x - BOX.width / 2).toFixed(1)} ${top_(item)})`,
    });
    if (item.fold >= 0) group.append(svg("rect", { class: "shade", x: 4, y: 4, width: BOX.width, height: BOX.height, rx: 6 }));
    group.append(
      svg("rect", { width: BOX.width, height: BOX.height, rx: 6 }),
      svg("text", { class: "op", x: BOX.width / 2, y: 17 }, middle(first, 24)),
      svg("text", { class: "name", x: BOX.width / 2, y: 32 }, middle(second, 26)),
      svg("title", {}, middle(`${first}\n${second}`, 600)),
    );
    if (selected && isSelected(item)) group.classList.add("selected");
    return group;
  }

  function isSelected(item) {
    if (item.side === selected.side) return item.nodes.includes(selected.node);
    return (partners[selected.side].get(selected.node) ?? []).some((node) => item.nodes.includes(node));
  }

  function draw(all = false) {
    if (!canvas.clientHeight && !all) return; // in a body that is closed
    const rows = plan.layers.length;
    const from = all ? 0 : Math.max(0, Math.floor(canvas.scrollTop / zoom / BOX.row) - 4);
    const to = all ? rows - 1 : Math.min(rows - 1, Math.ceil((canvas.scrollTop + canvas.clientHeight) / zoom / BOX.row) + 4);
    const key = `${from} ${to}`;
    if (key === drawn) return;
    drawn = key;
    const edges = new Set();
    for (let chunk = Math.floor(from / CHUNK); chunk <= Math.floor(to / CHUNK); chunk += 1) {
      for (const edge of plan.chunks[chunk]) if (edge.first <= to && edge.last >= from) edges.add(edge);
    }
    const back = svg("g", { class: "edges" }), ties = svg("g", { class: "links" }), front = svg("g", {});
    for (const edge of edges) back.append(svg("path", { d: edgePath(edge), class: edge.points.length === 2 && edge.last - edge.first > LONG ? "long" : "" }));
    for (let row = from; row <= to; row += 1) {
      for (const item of plan.layers[row]) {
        front.append(box(item));
        for (const other of item.partners.keys()) {
          if (item.side !== 0) continue;
          const x0 = item.x + BOX.width / 2, x1 = other.x - BOX.width / 2;
          const y0 = top_(item) + BOX.height / 2, y1 = top_(other) + BOX.height / 2, bend = Math.max((x1 - x0) / 2, 20);
          ties.append(svg("path", { d: `M${x0} ${y0}C${x0 + bend} ${y0} ${x1 - bend} ${y1} ${x1} ${y1}`, class: stateOf(item) }));
        }
      }
    }
    for (const { x, title } of plan.titles) front.append(svg("text", { class: "title", x, y: 24 }, middle(title, 40)));
    surface.replaceChildren(ties, back, front);
  }

  function resize() {
    surface.setAttribute("viewBox", `0 0 ${plan.width} ${plan.height}`);
    for (const each of [surface, extent]) {
      each.style.width = `${plan.width * zoom}px`;
      each.style.height = `${plan.height * zoom}px`;
    }
    drawn = "";
    draw();
  }

  function arrange() {
    plan = layOut(sides, links, opened);
    root.classList.toggle("tall", plan.layers.length > 100);
    resize();
  }

  function setOpen(side, fold, open) { // with the matching run of the other side
    const change = (s, f) => (open ? opened[s].add(f) : opened[s].delete(f));
    change(side, fold);
    for (const node of sides[side].folds[fold]) {
      for (const other of partners[side].get(node) ?? []) {
        const match = foldOf[1 - side].get(other);
        if (match !== undefined) change(1 - side, match);
      }
    }
  }

  function reveal(side, node) {
    const item = plan.owner[side][node];
    canvas.scrollTo(item.x * zoom - canvas.clientWidth / 2, top_(item) * zoom - canvas.clientHeight / 2);
  }

  function select(side, node, scroll) {
    const fold = foldOf[side].get(node);
    if (fold !== undefined && !opened[side].has(fold)) {
      setOpen(side, fold, true);
      arrange();
    }
    selected = { side, node };
    if (scroll) reveal(side, node);
    tell();
    drawn = "";
    draw();
  }

  function action(text, run) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", run);
    return made;
  }

  function tell() {
    const { side, node } = selected;
    const graph = sides[side];
    const line = document.createElement("p"), name = document.createElement("bdi"), strong = document.createElement("strong");
    strong.textContent = graph.ops[node];
    name.textContent = middle(graph.names[node], 400);
    line.append(strong, " ", name);
    const fate = document.createElement("p");
    fate.textContent = [graph.title, states[graph.states[node]] ?? "", graph.notes[node] ?? ""].filter(Boolean).join(" · ");
    const tools = document.createElement("p");
    for (const other of partners[side].get(node) ?? []) {
      const there = sides[1 - side];
      tools.append(action(`${there.title}: ${there.ops[other]} ${middle(there.names[other], 60)}`, () => select(1 - side, other, true)));
    }
    for (const [title, anchor] of graph.bodies[node] ?? []) tools.append(action(`Open ${middle(title, 60)}`, () => openBody(anchor)));
    const fold = foldOf[side].get(node);
    if (fold !== undefined) {
      tools.append(action("Fold this run", () => {
        setOpen(side, fold, false);
        selected = null;
        details.replaceChildren();
        arrange();
        reveal(side, node);
      }));
    }
    details.replaceChildren(line, fate, tools);
  }

  function press(target) {
    const group = target.closest?.("g.node");
    if (!group) return;
    const item = plan.items[Number(group.dataset.item)];
    if (item.fold < 0) return select(item.side, item.nodes[0], false);
    const place = top_(item) * zoom - canvas.scrollTop; // what was pressed stays where it is
    setOpen(item.side, item.fold, true);
    arrange();
    canvas.scrollTop = top_(plan.owner[item.side][item.nodes[0]]) * zoom - place;
  }

  function find(step) {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!step) {
      hit = -1;
      hits = [];
      if (wanted.length) {
        sides.forEach((side, s) => side.names.forEach((name, node) => {
          const text = `${side.ops[node]}\n${name}`.toLowerCase();
          if (wanted.every((word) => text.includes(word))) hits.push([s, node]);
        }));
      }
    }
    if (hits.length) {
      hit = (hit + 1) % hits.length;
      select(...hits[hit], true);
    }
    found.textContent = wanted.length ? `${hit + 1} of ${hits.length.toLocaleString("en")}` : "";
  }

  function scale(factor) {
    const x = (canvas.scrollLeft + canvas.clientWidth / 2) / zoom, y = (canvas.scrollTop + canvas.clientHeight / 2) / zoom;
    zoom = Math.min(Math.max(zoom * factor, 0.2), 2);
    resize();
    canvas.scrollTo(x * zoom - canvas.clientWidth / 2, y * zoom - canvas.clientHeight / 2);
  }

  const tools = {
    fold: () => { opened.forEach((set) => set.clear()); arrange(); },
    unfold: () => { sides.forEach((side, s) => side.folds.forEach((_, fold) => opened[s].add(fold))); arrange(); },
    in: () => scale(1.25),
    out: () => scale(0.8),
  };
  root.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", tools[button.dataset.do]));
  surface.addEventListener("click", (event) => press(event.target));
  surface.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    press(event.target);
  });
  let typing = 0;
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => find(0), 120); });
  search.addEventListener("keydown", (event) => { if (event.key === "Enter") find(1); });
  canvas.addEventListener("scroll", () => requestAnimationFrame(() => draw()), { passive: true });
  window.addEventListener("resize", () => draw());
  window.addEventListener("beforeprint", () => { if (plan.layers.length <= 100) draw(true); });
  window.addEventListener("afterprint", () => { drawn = ""; draw(); });
  arrange();
  const widest = plan.width * zoom - canvas.clientWidth;
  if (widest > 0) { // fitted to the width where that leaves it readable; else in the middle
    zoom = Math.max(canvas.clientWidth / plan.width, 0.6);
    resize();
    canvas.scrollLeft = (plan.width * zoom - canvas.clientWidth) / 2;
  }
}

// ---- Bodies of nodes and functions: drawn when they are opened, for only then is there room to fit them to -------------

function openBody(anchor) {
  const body = document.getElementById(anchor);
  body.open = true;
  body.scrollIntoView({ block: "start" });
}

document.querySelectorAll(".drawing").forEach((root) => {
  const body = root.closest("details.body");
  if (body) body.addEventListener("toggle", () => makeDrawing(root), { once: true });
  else makeDrawing(root);
});
document.documentElement.dataset.ready = String(Math.round(performance.now())); // milliseconds since the page was asked for
