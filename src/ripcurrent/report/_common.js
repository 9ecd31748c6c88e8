"use strict";
// What the pages with plots share: elements by id, the theme button, and plots that may be drawn again at any time.
window.ripcurrentPage = (() => {
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

  // Colours are the page's variables, so that a change of theme needs no redraw.
  const axis = {
    labelColor: "var(--muted)", titleColor: "var(--ink)", gridColor: "var(--grid)", domainColor: "var(--line-strong)", tickColor: "var(--line-strong)",
    labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500, titlePadding: 8, tickSize: 4, labelLimit: 140,
  };
  const legend = { orient: "top", title: null, labelColor: "var(--ink)", labelFontSize: 12, symbolSize: 70, offset: 6, columnPadding: 16, symbolOpacity: 1 };
  const config = { font: getComputedStyle(document.body).fontFamily, aria: false, axis, legend };
  const drawn = {};
  const draw = async (id, spec, datasets) => {
    if (!window.vegaEmbed) return; // a page built without the plots' library says so in their place
    const turn = (drawn[id]?.turn ?? 0) + 1;
    drawn[id]?.result?.finalize();
    drawn[id] = { turn };
    // "ast" interprets expressions instead of compiling them, which the page's policy does not allow.
    const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, config, defaultStyle: false, tooltip: { disableDefaultStyle: true } };
    const result = await window.vegaEmbed(byId(id), { ...spec, datasets: { ...spec.datasets, ...datasets } }, options);
    // the plot is one picture, whose name is its caption
    byId(id).querySelector("svg")?.setAttribute("aria-hidden", "true");
    if (drawn[id].turn === turn) drawn[id].result = result;
    else result.finalize();
  };

  return { byId, draw };
})();
