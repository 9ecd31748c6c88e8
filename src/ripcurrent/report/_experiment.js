"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { byId, draw } = window.ripcurrentPage;

  const show = (judge) => {
    const points = data.points.filter((point) => point.judge === judge);
    draw("intervals", data.intervals, { points });
    if (data.judgement) draw("refusals", data.judgement, { refusals: data.refusals.filter((one) => one.judge === judge) });
    if (data.sweep) {
      const means = new Map(points.filter((point) => point.what === "mean").map((point) => [point.arm, point]));
      const steps = data.trends
        .filter((trend) => trend.judge === judge)
        .flatMap((trend) => trend.arms.map((arm, place) => ({ ...means.get(arm), group: trend.group, place: place + 1 })));
      draw("sweep", data.sweep, { steps });
    }
  };
  const choice = byId("judge");
  if (data.judges.length) show(choice ? choice.value : data.judges[0]);
  choice?.addEventListener("change", () => show(choice.value));
})();
