"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = data.rows;
  const count = rows.row.length;
  const { byId, draw } = window.ripcurrentPage;
  const whole = new Intl.NumberFormat("en");

  // Every text enters the page through textContent: row texts are data, never markup.
  const make = (tag, properties = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "text") element.textContent = value;
      else if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter(Boolean));
    return element;
  };

  const number = (value, column) => {
    if (value === null || value === undefined) return "–";
    let text;
    if (column && data.columns[column].whole) text = whole.format(value);
    else if (value !== 0 && (Math.abs(value) < 0.0005 || Math.abs(value) >= 1e5)) text = value.toExponential(2);
    else if (value !== 0 && Math.abs(value) < 0.1) text = value.toPrecision(3);
    else if (Math.abs(value) < 10) text = value.toFixed(3);
    else text = value.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
    return text.replaceAll("-", "−");
  };
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  // Plots.
  const riskier = (score) => data.columns[score].direction;

  const drawScore = (score) => {
    const chart = data.charts[score];
    const [safestCut, median, riskiestCut] = chart.cuts;
    const ends = [`riskiest ${chart.ends}`, `safest ${chart.ends}`];
    const lower = riskier(score) === "lower";
    const end = (value) => {
      if (lower ? value <= riskiestCut : value >= riskiestCut) return ends[0];
      return (lower ? value >= safestCut : value <= safestCut) ? ends[1] : "between";
    };
    const { counts, edges, beyond } = chart.bins;
    const bins = counts.map((n, i) => ({ low: edges[i], high: edges[i + 1], rows: n }));
    const cuts = [{ cut: ends[1], value: safestCut }, { cut: "median", value: median }, { cut: ends[0], value: riskiestCut }];
    const scatter = rows.row
      .map((row, i) => ({ row, length: rows.values.response_tokens[i], score: rows.values[score][i] }))
      .filter((point) => point.score !== null && point.length >= 1)
      .map((point) => ({ ...point, end: end(point.score) }));
    // The ends are drawn last, on top of the crowd between them.
    scatter.sort((a, b) => (a.end !== "between") - (b.end !== "between"));
    const shares = chart.shares.flatMap((share) => [
      { trait: share.trait, rows: ends[1], share: share.safest },
      { trait: share.trait, rows: "all scored", share: share.all },
      { trait: share.trait, rows: ends[0], share: share.riskiest },
    ]);

    const correlation = chart.correlation === null ? "is not defined" : `is ${number(chart.correlation)}`;
    byId("distribution-note").textContent =
      `${score} over all scored rows, riskier to the ${lower ? "left" : "right"}. Median ${number(median)}.` +
      (beyond ? ` ${whole.format(beyond)} rows lie beyond the axis and are counted in the end bars.` : "");
    byId("length-note").textContent = `Spearman correlation of ${score} with response length ${correlation}.`;
    byId("formats-note").textContent =
      `Share of each format trait among the ${ends[0]}, the ${ends[1]} and all scored rows, by ${score}.`;
    byId("shares").replaceChildren(...chart.shares.map((share) => make("tr", {},
      make("th", { scope: "row", text: share.trait }),
      ...[share.riskiest, share.safest, share.all].map((value) => make("td", { class: "num", text: percent(value) })))));
    draw("distribution", chart.distribution, { bins, cuts });
    draw("length", chart.length, { points: scatter, bands: chart.bands });
    draw("formats", chart.formats, { shares });
  };

  // Table: columns, each with its head and the cell of row i.
  const state = { sort: "rank", ascending: true, page: 0, open: new Set(), chosen: data.ranking };
  const family = (name) => (/^(gradient|representation)_/.exec(name) ?? ["", ""])[1];
  const label = (name) => name.replace(/^(gradient|representation)_/, "").replaceAll("_", " ");
  const valueOf = (column, i) => {
    if (column === "rank" || column === "row" || column === "status") return rows[column][i];
    if (column === "traits") return rows.traits[i].length;
    if (column === "text") return rows.texts[i]?.[1][0] ?? null;
    return rows.values[column][i];
  };
  // Riskiest first is what a reader wants of a score; of a name or a position, the beginning.
  const startsAscending = (column) => ["rank", "row", "status", "text"].includes(column) || data.columns[column]?.direction === "lower";

  const tableScores = () => data.scores.filter((name) => riskier(name) === "higher" || name === state.chosen);
  const tableColumns = () => [
    { key: "rank", text: "rank", width: "c-rank", css: "num rank", title: data.ranking ? `by ${data.ranking}, riskiest first, among all rows that have it` : "no row has a score",
      cell: (i) => [rows.rank[i] === null ? "–" : whole.format(rows.rank[i])] },
    { key: "row", text: "row", width: "c-row", css: "num", title: "0-based position in the input", cell: (i) => [String(rows.row[i])] },
    ...tableScores().map((name) => ({ key: name, name, text: label(name), width: "c-value", css: `num value${name === state.chosen ? " chosen" : ""}`,
      title: `${name}: ${data.columns[name].meaning}`, cell: (i) => scoreCell(name, i) })),
    { key: "response_tokens", name: "tokens", text: "tokens", width: "c-length", css: "num", title: "response_tokens: tokens that bear loss",
      cell: (i) => [number(rows.values.response_tokens[i], "response_tokens")] },
    { key: "traits", name: "", text: "traits", width: "c-traits", css: "", title: "format traits of the response; sorts by how many",
      cell: (i) => rows.traits[i].map((trait) => make("span", { class: "trait", text: trait })) },
    { key: "text", name: "", text: "prompt and response", width: "c-text", css: "text", title: "sorts by the response", cell: openButton },
  ];

  const drawHead = (columns) => {
    const focused = document.activeElement?.dataset?.sort;
    const families = [];
    for (const name of tableScores().map(family)) {
      if (families.at(-1)?.name === name) families.at(-1).span += 1;
      else families.push({ name, span: 1 });
    }
    const heads = columns.map(({ key, text, css, title }) => make("th",
      { scope: "col", class: css.replace(/ (rank|value|chosen)/g, ""), title, "aria-sort": state.sort === key ? (state.ascending ? "ascending" : "descending") : "none" },
      make("button", { type: "button", "data-sort": key, text, on: { click: () => sortBy(key) } })));
    byId("table").tHead.replaceChildren(
      make("tr", { class: "families" }, make("td", { colspan: 2 }),
        ...families.map((f) => make("th", { class: f.name ? "family" : "", colspan: f.span, scope: "colgroup", text: f.name })), make("td", { colspan: 3 })),
      make("tr", {}, ...heads));
    byId("columns").replaceChildren(...columns.map(({ width }) => make("col", { class: width })));
    if (focused) byId("table").tHead.querySelector(`[data-sort="${focused}"]`)?.focus();
  };

  // Table: rows.
  const track = (share) => {
    const fill = make("i");
    fill.style.width = `${Math.round(100 * Math.min(1, Math.max(0, share)))}%`;
    return make("span", { class: "track", "aria-hidden": "true" }, fill);
  };

  const scoreCell = (name, i) => {
    const value = rows.values[name][i];
    if (name !== state.chosen || value === null) return [number(value)];
    const [low, high] = [data.charts[name].quantiles[0], data.charts[name].quantiles.at(-1)];
    return [number(value), track(high > low ? (value - low) / (high - low) : 0.5)];
  };

  // characters, of which some take two of JavaScript's
  const size = (text) => Array.from(text).length;

  const cut = rows.texts.some((texts) => texts?.some(([text, length]) => size(text) < length));

  const clipped = (name, [text, length], shares) => [
    make("h4", { text: size(text) < length ? `${name}, the first ${whole.format(size(text))} of ${whole.format(length)} characters` : name }),
    (text && shares?.body(name, text)) || make("div", { class: "body", "data-part": name.toLowerCase(), text: text || "(empty)" }),
  ];

  const detail = (i, id, columns) => {
    const shares = data.shares?.rows[i] ? window.tokenShares(data.shares.rows[i], id, { make, number, data }) : null;
    const texts = rows.texts[i]
      ? [...clipped("Prompt", rows.texts[i][0], shares), ...clipped("Response", rows.texts[i][1], shares)]
      : [make("p", { class: "sub", text: "The text of this row is not available." })];
    const [controls, sums] = shares?.panels() ?? [];
    const facts = make("dl", { class: "numbers" });
    for (const name of Object.keys(data.columns)) {
      facts.append(make("dt", { text: name, title: data.columns[name].meaning }), make("dd", { text: number(rows.values[name][i], name) }));
    }
    facts.append(make("dt", { text: "truncated" }), make("dd", { text: rows.truncated[i] ? "yes" : "no" }),
      make("dt", { text: "id" }), make("dd", { class: "id", text: rows.id[i] }));
    return make("tr", { class: "detail", id }, make("td", { colspan: columns },
      make("div", { class: "parts" },
        make("div", {}, controls, ...texts),
        make("div", {}, ...(sums ?? []), make("h4", { text: "Parts" }), facts))));
  };

  const openButton = (i) => {
    const id = `detail-${rows.row[i]}`;
    const [prompt, response] = (rows.texts[i] ?? []).map(([text]) => text);
    const button = make("button", { type: "button", class: "open", "aria-expanded": String(state.open.has(i)), "aria-controls": id, "data-row": rows.row[i] },
      rows.status[i] === "ok" ? null : make("span", { class: "status", text: `not scored: ${rows.status[i]}` }),
      make("span", { class: "ask", text: rows.texts[i] ? prompt.slice(0, 160) || "(no prompt)" : `id ${rows.id[i]}` }),
      rows.texts[i] && make("span", { class: "answer", text: response.slice(0, 320) || "(empty response)" }));
    button.addEventListener("click", () => {
      const opening = !state.open.has(i);
      button.setAttribute("aria-expanded", String(opening));
      if (opening) { state.open.add(i); button.closest("tr").after(detail(i, id, tableColumns().length)); }
      else { state.open.delete(i); byId(id).remove(); }
    });
    return [button];
  };

  const drawRow = (i, columns) => {
    const cells = columns.map(({ key, name = key, css, cell }) => make("td", { class: css, "data-name": name || null }, ...cell(i)));
    const line = make("tr", { "data-row": rows.row[i] }, ...cells);
    return state.open.has(i) ? [line, detail(i, `detail-${rows.row[i]}`, columns.length)] : [line];
  };

  const matches = () => {
    const words = byId("search").value.toLowerCase().trim();
    const status = byId("status").value;
    const group = byId("group")?.value ?? "";
    const traits = [...byId("traits").querySelectorAll("[aria-pressed=true]")].map((chip) => chip.dataset.trait);
    const found = [];
    for (let i = 0; i < count; i += 1) {
      if (status && rows.status[i] !== status) continue;
      if (group && rows.group[i] !== group) continue;
      if (!traits.every((trait) => trait === "token shares" ? data.shares.rows[i] : rows.traits[i].includes(trait))) continue;
      if (words && String(rows.row[i]) !== words && ![...(rows.texts[i] ?? []).map(([text]) => text), rows.id[i]].some((text) => text.toLowerCase().includes(words))) continue;
      found.push(i);
    }
    return found;
  };

  const sorted = (found) => {
    const sign = state.ascending ? 1 : -1;
    return found.sort((a, b) => {
      const [x, y] = [valueOf(state.sort, a), valueOf(state.sort, b)];
      // Rows without a value stay last whichever way the column runs.
      if (x === null || y === null) return (x === null) - (y === null) || rows.row[a] - rows.row[b];
      const order = typeof x === "string" ? x.localeCompare(y) : x - y;
      return sign * order || rows.row[a] - rows.row[b];
    });
  };

  const drawTable = () => {
    const size = Number(byId("size").value);
    const found = sorted(matches());
    const last = Math.max(0, Math.ceil(found.length / size) - 1);
    state.page = Math.min(state.page, last);
    const columns = tableColumns();
    const page = found.slice(state.page * size, (state.page + 1) * size);
    drawHead(columns);
    byId("table").tBodies[0].replaceChildren(...(page.length
      ? page.flatMap((i) => drawRow(i, columns))
      : [make("tr", {}, make("td", { class: "empty", colspan: columns.length, text: "No row matches. Loosen the search or a filter." }))]));
    byId("found").textContent = `${whole.format(found.length)} of ${whole.format(count)} rows on this page match, sorted by ${state.sort}, ${state.ascending ? "ascending" : "descending"}.${cut && byId("search").value.trim() ? " Of long texts only the beginnings, which this page holds, are searched." : ""}`;
    byId("where").textContent = `Page ${state.page + 1} of ${last + 1}`;
    byId("previous").disabled = state.page === 0;
    byId("next").disabled = state.page === last;
    byId("sort").value = state.sort;
    byId("direction").textContent = state.ascending ? "↑ ascending" : "↓ descending";
  };

  function sortBy(column) {
    state.ascending = state.sort === column ? !state.ascending : startsAscending(column);
    state.sort = column;
    state.page = 0;
    drawTable();
  }

  // Controls.
  const refilter = () => { state.page = 0; drawTable(); };
  byId("status").append(...[...new Set(rows.status)].map((status) => make("option", { value: status, text: status })));
  byId("traits").append(...[...data.traits, ...(data.shares ? ["token shares"] : [])].map((trait) => make("button", {
    type: "button", class: "chip", "aria-pressed": "false", "data-trait": trait, text: trait,
    on: { click: ({ currentTarget }) => { currentTarget.setAttribute("aria-pressed", String(currentTarget.getAttribute("aria-pressed") !== "true")); refilter(); } },
  })));
  byId("sort").append(...["rank", "row", "status", ...Object.keys(data.columns), "traits", "text"].map((name) => make("option", { value: name, text: name })));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("search").addEventListener("input", refilter);
  for (const id of ["status", "group", "size"]) byId(id)?.addEventListener("change", refilter);
  byId("sort").addEventListener("change", ({ target }) => sortBy(target.value));
  byId("direction").addEventListener("click", () => { state.ascending = !state.ascending; refilter(); });
  const turn = (step) => { state.page += step; drawTable(); byId("rows-title").scrollIntoView(); };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("score")?.addEventListener("change", ({ target }) => {
    state.chosen = target.value;
    drawScore(state.chosen);
    drawTable();
  });

  if (!data.ranking) state.sort = "row";
  drawTable();
  if (state.chosen) drawScore(state.chosen);
})();
