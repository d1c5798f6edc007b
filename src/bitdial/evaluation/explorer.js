// Runs in a table that is sorted and filtered, and as lines over axes that are brushed. What comes from the runs is put
// into the page as text alone: textContent and attributes without a meaning of their own.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const TOP = 44, HEIGHT = 260, GAP = 106, SIDE = 84, NONE = 24, LONG = 60;

  function drawn(tag, attributes = {}, text = null) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== null) element.textContent = text;
    return element;
  }

  function made(tag, className = "", text = null) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== null) element.textContent = text;
    return element;
  }

  const shown = (value) => (value === null ? "\u2013" : typeof value === "number" ? String(Number(value.toPrecision(6))) : value);
  const short = (text, most) => {
    const letters = [...text], half = Math.floor((most - 1) / 2);
    return letters.length <= most ? text : letters.slice(0, half).join("") + "\u2026" + letters.slice(-half).join("");
  };

  const compared = (a, b, numeric) =>
    numeric ? Number(a) - Number(b) || 0 : String(a).localeCompare(String(b), "en", { numeric: true });

  // The scale of a column: where a value lies (0 at the foot, 1 at the head, null: nowhere), and what is written there.
  function scaleOf(column, values) {
    const there = [...new Set(values.filter((value) => value !== null && (!column.numeric || typeof value === "number")))];
    if (!column.numeric) {
      const place = new Map(there.map((value, index) => [value, (index + 0.5) / there.length]));
      const every = Math.ceil(there.length / 12);
      return { at: (value) => place.get(value) ?? null, ticks: there.filter((_, i) => i % every === 0).map((v) => [place.get(v), String(v)]) };
    }
    there.sort((a, b) => a - b);
    const bent = column.log ? Math.log : (value) => value;
    const low = bent(there[0]), span = bent(there.at(-1)) - low;
    const at = (value) => (typeof value !== "number" ? null : span ? (bent(value) - low) / span : 0.5);
    let marks = there, exact = 6;
    if (there.length > 7 || there.some((value, index) => index && at(value) - at(there[index - 1]) < 0.06)) {
      exact = 3;
      marks = [0, 0.25, 0.5, 0.75, 1].map((part) => low + part * span).map((value) => (column.log ? Math.exp(value) : value));
    }
    return { at, ticks: marks.map((value) => [at(value), String(Number(value.toPrecision(exact)))]) };
  }

  function explore(root) {
    const { columns, rows, colour, larger } = JSON.parse(root.querySelector("script").textContent);
    const input = root.querySelector("input"), count = root.querySelector("output");
    const scales = new Map();
    const scale = (index) => {
      if (!scales.has(index)) scales.set(index, scaleOf(columns[index], rows.map((row) => row[index])));
      return scales.get(index);
    };
    const axes = columns.map((column, index) => ({ column, index })).filter((each) => each.column.axis !== null);
    axes.sort((a, b) => a.column.axis - b.column.axis);
    const texts = rows.map((row) => row.map(shown).join("\n").toLowerCase());
    const good = rows.map((row) => {
      const part = colour === null ? null : scale(colour).at(row[colour]);
      return part === null ? null : larger ? part : 1 - part;
    });

    // The table.
    const heads = columns.map((column, index) => {
      const head = made("th", column.numeric ? "" : "words"), button = made("button");
      head.scope = "col";
      button.type = "button";
      button.append(made("span", "", column.name));
      button.addEventListener("click", () => sort(index, head.getAttribute("aria-sort") === "ascending" ? -1 : 1));
      head.append(button);
      return head;
    });
    const lines = rows.map((row) => {
      const line = made("tr");
      row.forEach((value, index) => {
        const text = shown(value);
        const cell = index ? made("td", columns[index].numeric ? "" : text.length > 30 ? "words long" : "words") : made("th");
        if (!index) cell.scope = "row";
        const brief = short(text, LONG);
        if (brief !== text) cell.title = text;
        cell.append(index ? brief : made("span", "", brief));
        line.append(cell);
      });
      return line;
    });
    const table = made("table"), body = made("tbody"), top = made("thead"), headings = made("tr");
    headings.append(...heads);
    top.append(headings);
    body.append(...lines);
    table.append(top, body);
    const box = root.querySelector(".rows");
    box.append(table);
    box.style.minHeight = `${box.offsetHeight}px`; // else a page that gets shorter would move below a finger that brushes

    function sort(index, way) {
      const order = rows.map((_, number) => number);
      const missing = (value) => value === null || (columns[index].numeric && Number.isNaN(Number(value)));
      order.sort((one, other) => {
        const [a, b] = [rows[one][index], rows[other][index]];
        if (missing(a) || missing(b)) return missing(a) - missing(b) || one - other;
        return way * compared(a, b, columns[index].numeric) || one - other;
      });
      body.append(...order.map((number) => lines[number]));
      heads.forEach((head, place) => {
        if (place === index) head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      });
    }

    // The lines over the axes.
    const frame = root.querySelector(".lines"), ranges = new Map();
    let paths = [], brushes = new Map();

    function draw() {
      frame.replaceChildren();
      if (axes.length < 2) return void (frame.hidden = true);
      const gap = Math.max(GAP, (frame.clientWidth - 2 * SIDE) / (axes.length - 1));
      const width = 2 * SIDE + gap * (axes.length - 1), whole = TOP + HEIGHT + NONE + 16;
      const svg = drawn("svg", { viewBox: `0 0 ${width} ${whole}`, width, height: whole, role: "group", "aria-label": "a line a run over parallel axes" });
      const height = (index, row) => {
        const part = scale(index).at(row[index]);
        return part === null ? TOP + HEIGHT + NONE : TOP + (1 - part) * HEIGHT;
      };
      const order = rows.map((_, number) => number).sort((a, b) => (good[a] ?? -1) - (good[b] ?? -1));
      paths = [];
      for (const number of order) {
        const points = axes.map(({ index }, place) => `${(SIDE + place * gap).toFixed(1)},${height(index, rows[number]).toFixed(1)}`);
        const path = drawn("polyline", { class: "line", points: points.join(" ") });
        path.style.setProperty("--density", Math.min(0.7, Math.max(0.15, 60 / rows.length)));
        if (colour !== null) path.style.stroke = good[number] === null ? "var(--soft)" : `color-mix(in oklab, var(--accent) ${(100 * good[number]).toFixed(0)}%, var(--bad))`;
        paths[number] = path;
        svg.append(path);
      }
      brushes = new Map();
      axes.forEach(({ column, index }, place) => {
        const x = SIDE + place * gap;
        svg.append(drawn("line", { class: "axis", x1: x, x2: x, y1: TOP, y2: TOP + HEIGHT }));
        for (const [part, text] of scale(index).ticks) {
          svg.append(drawn("text", { x: x - 5, y: TOP + (1 - part) * HEIGHT + 4, "text-anchor": "end" }, short(text, 12)));
        }
        if (rows.some((row) => scale(index).at(row[index]) === null)) {
          svg.append(drawn("text", { x: x - 5, y: TOP + HEIGHT + NONE + 4, "text-anchor": "end" }, "none"));
        }
        const title = drawn("text", { class: "title", x, y: 16, "text-anchor": "middle" }, short(column.name, Math.floor(gap / 8.6)));
        const brush = drawn("rect", { class: "brush", x: x - 9, width: 18, y: 0, height: 0 });
        const hit = drawn("rect", { class: "hit", x: x - 22, width: 44, y: TOP - 12, height: HEIGHT + NONE + 24 });
        hit.append(drawn("title", {}, `${column.name}: drag to select a range, click to clear it`));
        svg.append(title, ...(column.log ? [drawn("text", { x, y: 30, "text-anchor": "middle" }, "log")] : []), brush, hit);
        brushes.set(index, brush);
        brushed(hit, svg, index);
      });
      frame.append(svg);
      update();
    }

    function brushed(hit, svg, index) {
      const at = (event) => event.clientY - svg.getBoundingClientRect().top;
      let start = null;
      hit.addEventListener("pointerdown", (event) => {
        start = at(event);
        hit.setPointerCapture(event.pointerId);
        event.preventDefault();
      });
      hit.addEventListener("pointermove", (event) => {
        if (start === null) return;
        ranges.set(index, [Math.min(start, at(event)), Math.max(start, at(event))]);
        later();
      });
      for (const end of ["pointerup", "pointercancel"]) {
        hit.addEventListener(end, (event) => {
          if (start !== null && Math.abs(at(event) - start) < 4) ranges.delete(index);
          start = null;
          later();
        });
      }
    }

    // What is shown.
    function update() {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let left = 0;
      rows.forEach((row, number) => {
        const kept = words.every((word) => texts[number].includes(word)) && [...ranges].every(([index, [low, high]]) => {
          const part = scale(index).at(row[index]);
          const y = part === null ? TOP + HEIGHT + NONE : TOP + (1 - part) * HEIGHT;
          return low <= y && y <= high;
        });
        left += kept;
        lines[number].hidden = !kept;
        paths[number]?.classList.toggle("out", !kept);
      });
      for (const [index, brush] of brushes) {
        const [low, high] = ranges.get(index) ?? [0, 0];
        brush.setAttribute("y", low);
        brush.setAttribute("height", high - low);
      }
      count.textContent = left === rows.length ? `${left} runs` : `${left} of ${rows.length} runs`;
    }

    let waiting = false;
    function later() {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        update();
      });
    }

    function clear() {
      ranges.clear();
      input.value = "";
      update();
    }

    input.addEventListener("input", later);
    root.querySelector(".clear").addEventListener("click", clear);
    document.addEventListener("keydown", (event) => event.key === "Escape" && clear());
    lines.forEach((line, number) => {
      line.addEventListener("pointerenter", () => paths[number]?.classList.add("hot"));
      line.addEventListener("pointerleave", () => paths[number]?.classList.remove("hot"));
    });
    let width = frame.clientWidth;
    window.addEventListener("resize", () => {
      if (frame.clientWidth === width) return;
      width = frame.clientWidth;
      draw();
    });
    draw();
    update();
  }

  document.querySelectorAll(".explorer").forEach(explore);
})();
