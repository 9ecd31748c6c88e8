"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { byId, draw } = window.ripcurrentPage;

  const show = (judge) => {
    const of = (table) => table.filter((one) => one.judge === judge);
    const point = (what) => (one) => ({ ...one, arm: one.name, rate: one.attack_success_rate, what });
    const means = of(data.summaries).map(point("mean"));
    const runs = of(data.arms).filter((one) => one.seed !== null).map(point("run"));
    draw("intervals", data.intervals, { points: [...means, ...runs].filter((one) => one.rate !== null) });
    if (data.judgement && byId("more").open) {
      const refusals = means.filter((one) => one.discrimination).map(({ arm, discrimination: d }) => (
        { arm, harmful: d.harmful_refused, benign: d.benign_refused, difference: d.difference }));
      draw("refusals", data.judgement, { refusals });
    }
  };
  const choice = byId("judge");
  if (data.judges.length) show(choice ? choice.value : data.judges[0]);
  byId("more").addEventListener("toggle", () => { if (data.judges.length) show(choice ? choice.value : data.judges[0]); });
  choice?.addEventListener("change", () => show(choice.value));
})();
