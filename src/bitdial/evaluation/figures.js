// What a figure shows where one points at it, or walks through it with the arrow keys. Texts are set as text alone.
"use strict";
for (const figure of document.querySelectorAll("figure.drawn")) {
  const series = JSON.parse(figure.querySelector("script").textContent);
  const spots = series.flatMap((one) => one.at.map(([left, top, right, bottom, ...said]) => ({ one, left, top, right, bottom, said })));
  const holder = figure.querySelector(".scroll"), drawing = holder.querySelector("svg");
  const told = document.createElement("div"), here = document.createElementNS(drawing.namespaceURI, "rect");
  told.className = "told";
  told.hidden = true;
  told.setAttribute("role", "status");
  here.setAttribute("class", "here");
  holder.append(told);
  let at = -1;

  const labelled = (name, value) => (name ? `${name}: ${value}` : value);
  function show(index) {
    at = index;
    told.hidden = index < 0;
    if (index < 0) return here.remove();
    const { one, left, top, right, bottom, said } = spots[index];
    const lines = said.length === 1 ? said : [labelled(one.x, said[0]), labelled(one.y, said[1])];
    told.textContent = [one.name, ...lines].filter(Boolean).join("\n");
    const room = right === left ? 5 : 0;
    const box = { x: left - room, y: top - room, width: right - left + 2 * room, height: bottom - top + 2 * room, rx: room };
    for (const [name, value] of Object.entries(box)) here.setAttribute(name, value);
    drawing.append(here);
    const place = here.getBoundingClientRect(), frame = holder.getBoundingClientRect();
    const x = place.left - frame.left + holder.scrollLeft, y = place.top - frame.top;
    const beside = x + place.width + 8, most = holder.scrollLeft + holder.clientWidth - told.offsetWidth - 2;
    told.style.left = `${Math.max(holder.scrollLeft, beside <= most ? beside : x - told.offsetWidth - 8)}px`;
    told.style.top = `${Math.max(0, Math.min(y - 4, holder.clientHeight - told.offsetHeight - 2))}px`;
  }
  function nearest(event) {
    const scale = drawing.viewBox.baseVal.width / drawing.getBoundingClientRect().width;
    const frame = drawing.getBoundingClientRect();
    const x = (event.clientX - frame.left) * scale, y = (event.clientY - frame.top) * scale;
    let best = -1, least = 24;
    spots.forEach((spot, index) => {
      const away = Math.hypot(Math.max(spot.left - x, 0, x - spot.right), Math.max(spot.top - y, 0, y - spot.bottom));
      if (away < least) [best, least] = [index, away];
    });
    show(best);
  }
  holder.addEventListener("pointermove", nearest);
  holder.addEventListener("pointerdown", nearest);
  holder.addEventListener("pointerleave", () => show(-1));
  holder.addEventListener("blur", () => show(-1));
  holder.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(-1);
    else if (step && spots.length) {
      show(at < 0 ? 0 : (at + step + spots.length) % spots.length);
      event.preventDefault();
    }
  });
}
