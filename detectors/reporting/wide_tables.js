"use strict";
// A line above every table that is wider than its box: on a phone the scroll bar is not visible. The box then takes the
// focus, so that the arrow keys scroll it.
(() => {
  const boxes = [...document.querySelectorAll(".wide")].map((box) => {
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.textContent = "Scroll the table sideways \u2192";
    box.before(hint);
    return [box, hint];
  });
  function update() {
    for (const [box, hint] of boxes) {
      const more = box.scrollWidth > box.clientWidth;
      hint.classList.toggle("more", more);
      for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", "table, scrolls sideways"]]) {
        more ? box.setAttribute(name, value) : box.removeAttribute(name);
      }
      box.classList.toggle("more", more && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
    }
  }
  boxes.forEach(([box]) => box.addEventListener("scroll", update));
  document.querySelectorAll("details").forEach((each) => each.addEventListener("toggle", update));
  addEventListener("resize", update);
  update();
})();
