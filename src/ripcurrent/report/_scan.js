"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const held = data.rows;
  const names = Object.keys(data.columns);
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

  const valueOf = (one, column) => one.values[names.indexOf(column)] ?? null;

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
    const scatter = held
      .map((one) => ({ row: one.row, length: valueOf(one, "response_tokens"), score: valueOf(one, score) }))
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

  // Rows: those that this file holds, or those of the server that the page came from, by the same query.
  const state = { words: "", part: "all", cut: 0, kinds: [], shortest: 0, longest: null, by: data.ranking ?? "row", reverse: false, page: 0, size: 25 };
  const marks = new Map();
  const hidden = new RegExp(data.hidden, "gu");
  const size = (text) => Array.from(text).length;
  const shareOf = (one) => (100 * one.rank) / data.ranked;
  const asks = data.kinds.filter((kind) => kind.pattern).map((kind) => ({ name: kind.name, is: new RegExp(kind.pattern, "s") }));

  const kindsOf = (one) => [...one.traits, ...asks.filter((ask) => one.texts && ask.is.test(one.texts[0][0].slice(0, 400).toLowerCase())).map((ask) => ask.name)];
  const local = (() => {
    const inPart = {
      all: () => true,
      cut: (one) => one.rank && one.rank <= state.cut,
      unscored: (one) => one.status !== "ok",
      hidden: (one) => one.texts?.some(([text]) => text.search(hidden) >= 0),
      shares: (one) => one.shares,
      decided: (one) => marks.has(one.row),
    };
    const riskier = (column) => (data.columns[column].direction === "lower" ? 1 : -1);
    const order = (a, b) => {
      if (state.by === "row") return a.row - b.row;
      const [x, y] = [a, b].map((one) => (one.status === "ok" ? valueOf(one, state.by) : null));
      if (x === null || y === null) return (x === null) - (y === null) || a.row - b.row;
      return riskier(state.by) * (x - y) || a.row - b.row;
    };
    const said = (words) => [...words.matchAll(/(-?)(?:"([^"]+)"|(\S+))/g)].map(([, minus, quoted, word]) => ({ absent: minus === "-", word: (quoted ?? word).toLowerCase() }));
    const has = (one, word) => String(one.row) === word || one.id.toLowerCase() === word || one.texts?.some(([text]) => text.toLowerCase().includes(word));
    const matches = (words, one) => {
      const tokens = valueOf(one, "response_tokens") ?? 0;
      return inPart[state.part](one) && tokens >= state.shortest && (state.longest === null || tokens <= state.longest)
        && state.kinds.every((kind) => kindsOf(one).includes(kind)) && words.every(({ absent, word }) => has(one, word) !== absent);
    };
    return {
      find: async () => {
        const words = said(state.words);
        const found = held.filter((one) => matches(words, one)).sort(order);
        if (state.reverse) found.reverse();
        return { total: found.length, rows: found.slice(state.page * state.size, (state.page + 1) * state.size) };
      },
      row: async (row) => held.find((one) => one.row === row) ?? null,
      counts: () => Object.fromEntries(Object.entries(inPart).map(([part, is]) => [part, held.filter(is).length])),
    };
  })();
  const ask = async (path, options) => {
    const answer = await fetch(path, options);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  };
  const remote = {
    find: () => ask(`rows?q=${encodeURIComponent(JSON.stringify(state))}`),
    row: (row) => ask(`rows/${row}`),
  };
  const source = data.live ? remote : local;
  const attempt = async (work) => {
    try { byId("problem").hidden = true; return await work(); } catch (error) {
      byId("problem").textContent = error instanceof TypeError ? "The viewer does not answer: start `ripcurrent view` again." : error.message;
      byId("problem").hidden = false;
      return null;
    }
  };

  // What a reader does not see is shown as a mark.
  const visible = (text) => {
    const found = [];
    let at = 0;
    for (const { 0: character, index } of text.matchAll(hidden)) {
      found.push(text.slice(at, index), make("mark", { class: "unseen", text: `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`, title: "a character that is not seen" }));
      at = index + character.length;
    }
    return [...found, text.slice(at)];
  };
  const line = (css, text, empty) => make("span", { class: css }, ...(text ? visible(text) : [empty]));

  // Marks: kept with the run by the viewer, or saved as a file.
  let unsaved = false;
  const mark = async (row, change) => {
    const now = { row, decision: null, note: "", dataset: data.dataset, ...marks.get(row), ...change };
    if (now.decision || now.note) marks.set(row, now); else marks.delete(row);
    if (data.live) await attempt(() => ask("decisions", { method: "PUT", body: JSON.stringify(now) }));
    else unsaved = true;
    byId("save").hidden = data.live || !marks.size;
    drawParts();
    for (const button of document.querySelectorAll(`[data-marks="${row}"]`)) button.setAttribute("aria-pressed", String(marks.get(row)?.decision === button.dataset.decision));
  };
  const markButtons = (row) => ["keep", "drop"].map((decision) => make("button", {
    type: "button", class: "chip", "data-marks": row, "data-decision": decision, text: decision, "aria-pressed": String(marks.get(row)?.decision === decision),
    on: { click: () => mark(row, { decision: marks.get(row)?.decision === decision ? null : decision }) },
  }));
  byId("save").addEventListener("click", () => {
    const lines = [...marks.values()].sort((a, b) => a.row - b.row).map((one) => `${JSON.stringify(one)}\n`);
    const link = make("a", { download: "decisions.jsonl" });
    link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    unsaved = false;
  });
  addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });

  // The list.
  const risk = (one) => {
    if (!one.rank) return [make("span", { class: "status", text: one.status === "ok" ? "no score" : one.status.replaceAll("_", " ") })];
    const share = shareOf(one);
    const bar = make("i");
    bar.style.width = `${Math.max(2, 100 - share)}%`;
    const text = share > 50 ? "lower half" : `top ${share < 10 ? Number(share.toPrecision(1)) : Math.round(share)} %`;
    return [make("span", { class: "track", "aria-hidden": "true" }, bar), make("span", { text, title: `rank ${whole.format(one.rank)} of ${whole.format(data.ranked)}` })];
  };
  let shown = [];
  const drawRow = (one) => make("tr", { "data-row": one.row },
    make("td", { class: "risk" }, ...risk(one), state.by !== data.ranking && state.by !== "row" && make("small", { text: number(valueOf(one, state.by), state.by) })),
    make("td", { class: "text" }, make("button", { type: "button", class: "open", "data-row": one.row, on: { click: () => openRow(one.row) } },
      ...(one.texts ? [line("ask", one.texts[0][0].slice(0, 160), "(no request)"), line("answer", one.texts[1][0].slice(0, 260), "(empty answer)")] : [make("span", { class: "ask", text: `row ${one.row}, id ${one.id}` })]))),
    make("td", { class: "kind" }, ...one.traits.slice(0, 3).map((kind) => make("span", { class: "trait", text: kind }))),
    make("td", { class: "marks" }, ...markButtons(one.row)));
  let turn = 0;
  const drawTable = async () => {
    const own = (turn += 1);
    const found = await attempt(source.find);
    if (!found || own !== turn) return;
    const last = Math.max(0, Math.ceil(found.total / state.size) - 1);
    if (state.page > last) { state.page = last; drawTable(); return; }
    shown = found.rows;
    byId("table").tBodies[0].replaceChildren(...(shown.length ? shown.map(drawRow)
      : [make("tr", {}, make("td", { class: "empty", colspan: 4, text: "No row matches. Loosen the search or a filter." }))]));
    byId("found").textContent = `${whole.format(found.total)} rows`;
    byId("where").textContent = `${state.page + 1} of ${whole.format(last + 1)}`;
    byId("previous").disabled = state.page === 0;
    byId("next").disabled = state.page === last;
  };
  const change = (changes) => { Object.assign(state, changes, { page: 0 }); return drawTable(); };

  // Which rows: parts with their numbers, groups as cards, ranking, search, lengths.
  const PARTS = { all: "all", cut: "would go", unscored: "not scored", hidden: "hidden characters", shares: "coloured", decided: "my marks" };
  const drawParts = () => {
    const counts = data.live ? { ...data.counts, cut: step?.rows ?? 0, decided: marks.size } : local.counts();
    byId("parts").replaceChildren(...Object.entries(PARTS).filter(([part]) => counts[part] || part === "decided").map(([part, text]) => make("button", {
      type: "button", class: "chip", "aria-pressed": String(state.part === part), "data-part": part, text: `${text} ${whole.format(counts[part])}`,
      on: { click: () => { state.part = part; drawParts(); change({}); } },
    })));
  };
  byId("groups").append(...data.kinds.map((kind) => {
    const bar = make("i");
    bar.style.width = `${Math.round(100 * Math.min(1, kind.riskiest ?? 0))}%`;
    const usual = make("b");
    usual.style.left = `${Math.round(100 * Math.min(1, kind.expected ?? 0))}%`;
    const about = kind.riskiest === undefined ? kind.name : `${percent(kind.riskiest)} of the riskiest, ${percent(kind.expected)} expected at equal lengths`;
    return make("button", { type: "button", class: kind.over ? "card over" : "card", title: about, "data-kind": kind.name, "aria-pressed": "false", on: { click: ({ currentTarget }) => {
      const on = !state.kinds.includes(kind.name);
      currentTarget.setAttribute("aria-pressed", String(on));
      change({ kinds: on ? [...state.kinds, kind.name] : state.kinds.filter((one) => one !== kind.name) });
    } } }, make("span", { text: kind.name }), kind.riskiest !== undefined && make("span", { class: "track", "aria-hidden": "true" }, bar, usual));
  }));
  const plain = (name) => name.replaceAll("_", " ");
  byId("by").append(...[...(data.ranking ? [data.ranking] : []), ...names.filter((name) => name !== data.ranking), "row"].map((name) => make("option", {
    value: name, text: name === data.ranking ? "risk" : name === "row" ? "place in the file" : plain(name) })));
  byId("by").addEventListener("change", ({ target }) => change({ by: target.value }));
  let waiting = 0;
  byId("search").addEventListener("input", ({ target }) => { clearTimeout(waiting); waiting = setTimeout(() => change({ words: target.value.trim() }), data.live ? 200 : 0); });
  byId("shortest").addEventListener("change", ({ target }) => change({ shortest: Math.max(0, Math.trunc(Number(target.value))) }));
  byId("longest").addEventListener("change", ({ target }) => change({ longest: target.value === "" ? null : Math.max(0, Math.trunc(Number(target.value))) }));
  byId("reverse").addEventListener("change", ({ target }) => change({ reverse: target.checked }));
  const page = (by) => { state.page += by; drawTable(); byId("rows").scrollIntoView(); };
  byId("previous").addEventListener("click", () => page(-1));
  byId("next").addEventListener("click", () => page(1));

  // What to do: how much to leave out, what that takes away, and commands.
  let step = null;
  const drawStep = () => {
    step = data.steps[Number(byId("leave")?.value ?? 0)] ?? null;
    state.cut = step?.rows ?? 0;
    for (const code of document.querySelectorAll("[data-command]")) {
      // an option's name is not broken
      const words = code.dataset.command.replace("{share}", step?.share ?? 5).split(" ");
      code.replaceChildren(...words.flatMap((word, at) => [at ? " " : "", word.startsWith("-") ? make("span", { text: word }) : word]));
    }
    if (!step) return;
    byId("share").textContent = `${step.share}\u00a0%`;
    const most = Object.entries(step.traits).sort((a, b) => b[1] - a[1]).slice(0, 1).map(([kind, n]) => `${whole.format(n)} ${kind}`);
    byId("lost").textContent = `${whole.format(step.rows)} rows and ${percent(step.tokenShare)} of the trained tokens would go${most.length ? `, among them ${most[0]}` : ""}.`;
    const { counts, edges } = data.bins;
    const highest = Math.max(...counts);
    const lower = riskier(data.ranking) === "lower";
    byId("histogram").replaceChildren(...counts.map((n, i) => {
      const goes = lower ? edges[i] <= step.cut : edges[i + 1] >= step.cut;
      const bar = make("i", { class: goes ? "goes" : null });
      bar.style.height = `${Math.max(n ? 3 : 0, (100 * n) / highest)}%`;
      return bar;
    }));
    drawParts();
    if (state.part === "cut") drawTable();
  };
  byId("leave")?.addEventListener("input", drawStep);
  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    try { await navigator.clipboard.writeText(code.textContent); } catch { getSelection().selectAllChildren(code); document.execCommand("copy"); }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  // One row beside the list: why it stands where it does, its whole text, every number.
  const pane = byId("pane");
  let opened = null;
  const clipped = (name, [text, length], shares) => [
    make("h3", { text: size(text) < length ? `${name}, the first ${whole.format(size(text))} of ${whole.format(length)} characters` : name }),
    (text && shares?.body(name, text, visible)) || make("div", { class: "body", "data-part": name.toLowerCase() }, ...(text ? visible(text) : ["(empty)"])),
  ];
  const why = ({ why: found, rank, status }) => {
    if (!found) return [make("p", { text: rank ? "" : `Not scored: ${status.replaceAll("_", " ")}.` })];
    const side = (value, name) => value !== null && make("li", { text: `Nearer to the ${name} examples than ${value} % of the rows.` });
    return [make("ul", { class: "why" }, side(found.harmful, "complying"), side(found.safe, "refusing"),
      found.anchor && make("li", { text: `Nearest request that was complied with: “${found.anchor}”` }))];
  };
  const openRow = async (row) => {
    const one = await attempt(() => source.row(row));
    if (!one) { if (!data.live) byId("found").textContent = `Row ${row} is not in this file: ripcurrent view shows it.`; return; }
    opened = row;
    history.replaceState(null, "", `#row=${row}`);
    const shares = one.shares ? window.tokenShares(one.shares, `row-${row}`, { make, number, data }) : null;
    const texts = one.texts ? [...clipped("Prompt", one.texts[0], shares), ...clipped("Response", one.texts[1], shares)] : [make("p", { class: "sub", text: "The text of this row is not available." })];
    const [controls, sums] = shares?.panels() ?? [];
    const facts = make("dl", { class: "numbers" }, ...names.flatMap((name) => [make("dt", { text: name, title: data.columns[name].meaning }), make("dd", { text: number(valueOf(one, name), name) })]),
      make("dt", { text: "truncated" }), make("dd", { text: one.truncated ? "yes" : "no" }), make("dt", { text: "id" }), make("dd", { class: "id", text: one.id }));
    const note = make("input", { type: "text", placeholder: "note", "aria-label": "Note", maxlength: 2000, value: marks.get(row)?.note ?? "", on: { change: ({ target }) => mark(row, { note: target.value }) } });
    pane.replaceChildren(
      make("div", { class: "bar" }, make("h2", { text: `Row ${row}` }), ...risk(one), ...markButtons(row), note,
        ...[["k", "Previous row (k)", -1, "↑"], ["j", "Next row (j)", 1, "↓"]].map(([, label, by, text]) => make("button", { type: "button", class: "quiet", "aria-label": label, text, on: { click: () => walk(by) } })),
        make("button", { type: "button", class: "quiet close", "aria-label": "Close (Esc)", text: "✕", on: { click: closeRow } })),
      ...why(one), controls ?? "", ...texts, ...(sums ?? []),
      make("details", {}, make("summary", { text: "Every number" }), facts));
    pane.hidden = false;
    pane.scrollTop = 0;
    pane.focus({ preventScroll: true });
    for (const line of document.querySelectorAll("#table tr[data-row]")) line.classList.toggle("at", Number(line.dataset.row) === row);
  };
  const closeRow = () => {
    pane.hidden = true;
    history.replaceState(null, "", location.pathname + location.search);
    document.querySelector(`button.open[data-row="${opened}"]`)?.focus();
    opened = null;
  };
  const walk = (by) => {
    const next = shown[shown.findIndex((one) => one.row === opened) + by];
    if (next) openRow(next.row);
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && opened !== null) { closeRow(); return; }
    if (event.target.closest("input, select, textarea")) return;
    if (event.key === "/") { event.preventDefault(); byId("search").focus(); }
    if (event.key === "j" || event.key === "k") { if (opened === null) { if (shown.length) openRow(shown[0].row); } else walk(event.key === "j" ? 1 : -1); }
  });

  byId("score")?.addEventListener("change", ({ target }) => drawScore(target.value));
  byId("more").addEventListener("toggle", () => { if (byId("more").open && byId("score")) drawScore(byId("score").value); });
  (async () => {
    if (data.live) for (const one of (await attempt(() => ask("decisions")))?.decisions ?? []) marks.set(one.row, one);
    drawStep();
    drawParts();
    await drawTable();
    const row = /^#row=(\d+)$/.exec(location.hash);
    if (row) openRow(Number(row[1]));
  })();
})();
