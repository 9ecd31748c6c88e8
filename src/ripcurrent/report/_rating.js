"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { items } = data;
  const { byId } = window.ripcurrentPage;
  const storageKey = `ripcurrent-ratings-${data.page}`;
  const known = new Set(items.map((item) => item.id));
  const values = [1, 2, 3, 4, 5, data.cannotSay];

  // Kept in the browser: the rater's name and ratings by item id.
  const state = { rater: "", ratings: {} };
  let keeps = true;
  let unsaved = false;
  const load = () => {
    state.rater = "";
    state.ratings = {};
    try {
      const kept = JSON.parse(localStorage.getItem(storageKey) ?? "{}");
      if (typeof kept.rater === "string") state.rater = kept.rater;
      for (const [id, value] of Object.entries(kept.ratings ?? {})) if (known.has(id) && values.includes(value)) state.ratings[id] = value;
    } catch {
      // Storage is switched off, or what it held is damaged: begin anew.
    }
  };
  const keep = () => {
    try {
      localStorage.setItem(storageKey, JSON.stringify(state));
      keeps = true;
    } catch {
      keeps = false;
    }
  };
  const rated = () => Object.keys(state.ratings).length;
  const complete = () => rated() === items.length;
  const nextUnrated = (from) => {
    for (let step = 1; step <= items.length; step += 1) {
      const i = (from + step) % items.length;
      if (!(items[i].id in state.ratings)) return i;
    }
    return null;
  };

  // What is shown: -1 is the notice, items.length the end.
  let at = -1;
  const undone = [];
  const say = (text) => { byId("said").textContent = keeps ? text : `${text} This browser keeps nothing when the page is closed: save your ratings to a file first.`; };

  const draw = () => {
    const working = at >= 0;
    const item = items[at];
    byId("notice").hidden = working;
    byId("work").hidden = !item;
    byId("done").hidden = at !== items.length;
    byId("panel").hidden = !working;
    byId("buttons").hidden = !working;
    byId("progress").hidden = !working;
    document.body.classList.toggle("rating", working);
    byId("progress").textContent = `${rated()} of ${items.length} rated`;
    byId("bar").style.width = `${(100 * rated()) / items.length}%`;
    byId("place").textContent = item ? `Answer ${at + 1} of ${items.length}` : "";
    // An answer enters the page as text, and leaves it when it is not shown.
    byId("prompt").textContent = item?.prompt ?? "";
    byId("answer").textContent = item ? item.answer || "(empty)" : "";
    byId("cut").hidden = !item?.truncated;
    for (const button of document.querySelectorAll(".rate")) {
      button.disabled = !item;
      button.setAttribute("aria-pressed", String(Boolean(item) && state.ratings[item.id] === valueOf(button)));
    }
    byId("kept").textContent = rated() ? `This browser holds ${rated()} of ${items.length} ratings${state.rater ? ` by ${state.rater}` : ""}.` : "";
  };
  const valueOf = (button) => (button.dataset.value === "cannot" ? data.cannotSay : Number(button.dataset.value));

  const go = (place) => {
    at = place;
    draw();
    scrollTo(0, 0);
    byId(at === items.length ? "done-title" : "place").focus({ preventScroll: true });
  };
  const rate = (value) => {
    const item = items[at];
    if (!item) return;
    undone.push([at, state.ratings[item.id]]);
    state.ratings[item.id] = value;
    unsaved = true;
    keep();
    const next = nextUnrated(at);
    say(`Answer ${at + 1}: ${value === data.cannotSay ? "cannot say" : value}.`);
    go(next ?? items.length);
  };
  const undo = () => {
    const last = undone.pop();
    if (!last) {
      say("Nothing to undo since the page was opened. Go back to change an earlier rating.");
      return;
    }
    const [place, before] = last;
    if (before === undefined) delete state.ratings[items[place].id];
    else state.ratings[items[place].id] = before;
    unsaved = true;
    keep();
    say(`Answer ${place + 1}: rating taken back.`);
    go(place);
  };
  const back = () => {
    if (at <= 0) return;
    say("");
    go(at - 1);
  };
  const forward = () => {
    if (at >= items.length || (at === items.length - 1 && !complete())) return;
    say("");
    go(at + 1);
  };

  // One rater's ratings do not become another's by typing a name over theirs.
  const takeName = () => {
    const name = byId("rater").value.trim();
    const other = state.rater && name.toLowerCase() !== state.rater.toLowerCase();
    if (name && other && rated() && !confirm(`This browser holds ${rated()} ratings by ${state.rater}. Are they yours, ${name}? If not, cancel, save them to a file and clear them first.`)) {
      byId("rater").value = state.rater;
      return null;
    }
    state.rater = name;
    return name;
  };

  // To a file.
  const save = () => {
    const rater = takeName();
    if (rater === null) return;
    if (!rater) {
      leave();
      byId("kept").textContent = "Type your name or code first, then show the answers and save again.";
      byId("rater").focus();
      return;
    }
    const ratings = {};
    for (const item of items) if (item.id in state.ratings) ratings[item.id] = state.ratings[item.id];
    const file = { kind: "ripcurrent ratings", page: data.page, rubric: data.rubric, rater, exported: new Date().toISOString(), items: items.length, ratings };
    const link = document.createElement("a");
    const plain = rater.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") || "rater";
    link.download = `ratings-${plain}-${data.page.slice(0, 8)}.json`;
    link.href = URL.createObjectURL(new Blob([`${JSON.stringify(file, null, 2)}\n`], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    unsaved = false;
    say(`Saved ${rated()} of ${items.length} ratings as ${link.download}.`);
  };
  const leave = () => {
    at = -1;
    draw();
    scrollTo(0, 0);
  };
  const clear = () => {
    if (!confirm(`Forget all ${rated()} ratings in this browser? Save them to a file first if they are wanted.`)) return;
    state.rater = "";
    state.ratings = {};
    undone.length = 0;
    unsaved = false;
    try { localStorage.removeItem(storageKey); } catch { /* nothing was kept */ }
    byId("rater").value = "";
    leave();
  };

  byId("start-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = takeName();
    if (name === null) return;
    if (!name) {
      byId("kept").textContent = "Type your name or code first: agreement is between raters.";
      byId("rater").focus();
      return;
    }
    keep();
    say("");
    go(nextUnrated(-1) ?? items.length);
  });
  for (const button of document.querySelectorAll(".rate")) button.addEventListener("click", () => rate(valueOf(button)));
  for (const [id, action] of Object.entries({ back, forward, undo, export: save, leave, clear })) byId(id).addEventListener("click", action);
  addEventListener("keydown", (event) => {
    // A held key would rate answers that no one has read.
    if (at < 0 || event.repeat || event.altKey || event.metaKey || event.target.matches?.("input")) return;
    if (event.ctrlKey && event.key !== "z") return;
    const key = event.key.toLowerCase();
    if (/^[1-5]$/.test(key)) rate(Number(key));
    else if (key === "0" || key === "x") rate(data.cannotSay);
    else if (key === "arrowleft" || key === "backspace") back();
    else if (key === "arrowright") forward();
    else if (key === "u" || key === "z" && event.ctrlKey) undo();
    else return;
    event.preventDefault();
  });
  // The same page in another tab: the last rating counts in both.
  addEventListener("storage", (event) => {
    if (event.key !== storageKey) return;
    load();
    draw();
  });
  addEventListener("beforeunload", (event) => { if (unsaved && !keeps) event.preventDefault(); });

  load();
  byId("rater").value = state.rater;
  draw();
})();
