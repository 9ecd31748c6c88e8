"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  // Theme: the system's until the reader chooses.
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const themeButton = byId("theme");
  const isDark = () => (document.documentElement.dataset.theme ?? (systemDark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { themeButton.textContent = isDark() ? "Light theme" : "Dark theme"; };
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  systemDark.addEventListener("change", nameTheme);
  nameTheme();

  const drawn = {};
  const draw = async (id, spec, datasets) => {
    const turn = (drawn[id]?.turn ?? 0) + 1;
    drawn[id]?.result?.finalize();
    drawn[id] = { turn };
    // "ast" interprets expressions instead of compiling them, which the page's policy does not allow.
    const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, tooltip: { disableDefaultStyle: true } };
    const result = await window.vegaEmbed(byId(id), { ...spec, datasets }, options);
    if (drawn[id].turn === turn) drawn[id].result = result;
    else result.finalize();
  };
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
