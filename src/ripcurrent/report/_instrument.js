"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("data").textContent);
  const { byId, draw } = window.ripcurrentPage;

  for (const { id, spec, points, choose } of figures) {
    const choice = byId(`${id}-choice`);
    const show = () => draw(id, spec, { points: choice ? points.filter((point) => point[choose] === choice.value) : points });
    show();
    choice?.addEventListener("change", show);
  }
})();
