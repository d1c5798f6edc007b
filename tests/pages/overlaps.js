(() => {
  // Every piece of text that can be seen, with its box; of a figure's texts also what they are drawn in.
  const pieces = [], cut = [], faint = [];
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\d.]+/g).map((part) => (part / 255 <= 0.03928 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paint = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return /, 0\)$/.test(colour) && element.parentElement ? paint(element.parentElement) : colour;
  };
  const turned = (element) => {
    const angle = Number(/rotate\((-?[\d.]+)/.exec(element.getAttribute("transform") ?? "")?.[1] ?? 0);
    return angle % 90 ? angle : 0;
  };
  // What of a box can be seen within boxes around it that scroll: the rest is reached by scrolling, and covers nothing.
  const seen = (node, box) => {
    let { left, right, top, bottom } = box;
    for (let around = node.parentElement; around; around = around.parentElement) {
      const style = getComputedStyle(around), frame = around.getBoundingClientRect();
      const scrolls = (way) => way === "auto" || way === "scroll";
      if (around !== document.documentElement && around !== document.body && scrolls(style.overflowX)) [left, right] = [Math.max(left, frame.left), Math.min(right, frame.right)];
      if (around !== document.documentElement && around !== document.body && scrolls(style.overflowY)) [top, bottom] = [Math.max(top, frame.top), Math.min(bottom, frame.bottom)];
    }
    return { left, right, top, bottom, width: right - left, height: bottom - top };
  };
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement, words = node.textContent.trim();
    if (!words || parent.closest("script, style, .told, [data-testid=status-tracker]") || !parent.checkVisibility({ visibilityProperty: true })) continue;
    const drawing = parent.closest("figure.drawn svg, figure.chart > svg");
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const whole of drawing ? [parent.getBoundingClientRect()] : range.getClientRects()) {
      const box = seen(node, whole);
      if (box.width > 0.5 && box.height > 0.5) pieces.push({ node, words, box, drawing, angle: drawing ? turned(parent) : 0 });
    }
    if (!drawing) continue;
    const box = parent.getBoundingClientRect(), frame = drawing.getBoundingClientRect();
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) cut.push(words);
    const below = paint(drawing.closest("figure"));
    const [one, other] = [light(getComputedStyle(parent).fill), light(below)];
    const onCells = /^[\d.\-–]+$/.test(words); // numbers in a map have the colour of its cells behind them
    if (!onCells && (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05) < 2.5) faint.push(words);
  }
  // What a box that hides its overflow does not show, and on paper what lies beyond its border: nobody can scroll there.
  const page = document.documentElement, paper = matchMedia("print").matches, hidden = [];
  for (const { node, words, box, drawing } of pieces) {
    if (paper && (box.right > page.clientWidth + 1 || box.left < -1)) hidden.push(words);
    for (let around = node.parentElement; !drawing && around !== page; around = around.parentElement) {
      const style = getComputedStyle(around), frame = around.getBoundingClientRect();
      const [across, down] = [style.overflowX, style.overflowY].map((way) => way === "hidden" || way === "clip");
      if ((across && (box.right > frame.right + 1 || box.left < frame.left - 1)) || (down && (box.bottom > frame.bottom + 2 || box.top < frame.top - 2))) hidden.push(words);
    }
  }
  const folded = paper ? [...document.querySelectorAll("details > :not(summary)")].filter((part) => !part.checkVisibility({ contentVisibilityAuto: true }) || !part.getBoundingClientRect().height) : [];
  const covered = [];
  pieces.sort((a, b) => a.box.top - b.box.top);
  pieces.forEach((one, index) => {
    for (let next = index + 1; next < pieces.length && pieces[next].box.top < one.box.bottom; next++) {
      const other = pieces[next];
      if (one.node === other.node || (one.angle && one.angle === other.angle)) continue;
      const wide = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left);
      const high = Math.min(one.box.bottom, other.box.bottom) - other.box.top;
      if (wide > 1.5 && high > 2.5) covered.push(`'${one.words}' and '${other.words}'`);
    }
  });
  return {
    texts: pieces.length, figures: document.querySelectorAll("figure").length, covered, cut, "hardly seen": faint,
    hidden, "folded on paper": folded.map((part) => part.textContent.trim().slice(0, 40)),
    "wider than the screen": page.scrollWidth > page.clientWidth ? page.scrollWidth : 0,
  };
})()
