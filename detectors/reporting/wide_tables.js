"use strict";
// A line above every table that is wider than its box: on a phone the scroll bar is not visible.
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
      box.classList.toggle("more", more && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
    }
  }
  boxes.forEach(([box]) => box.addEventListener("scroll", update));
  document.querySelectorAll("details").forEach((each) => each.addEventListener("toggle", update));
  addEventListener("resize", update);
  update();
})();
