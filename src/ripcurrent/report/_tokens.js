"use strict";
// A row's text coloured by its token shares. Each text is one stop of the Tab key; arrow keys go from token to token.
window.tokenShares = (() => {
  const STRONGEST = 8;
  // One choice of score for all open rows: each colours itself again when it changes.
  let measure = null;
  const open = new Set();

  return (row, id, { make, number, data }) => {
    const sets = data.safeSets;
    const measures = {
      gradient_bidirectional: { label: sets === 1 ? "harmful − safe" : `harmful − ${sets} × safe`, of: (t) => t.harmful - sets * t.safe, sign: 1 },
      gradient_balanced: { label: "harmful − safe", of: (t) => t.harmful - t.safe, sign: 1 },
      gradient_harmful: { label: "harmful", of: (t) => t.harmful, sign: 1 },
      gradient_safe: { label: "safe", of: (t) => t.safe, sign: -1 },
    };
    if (sets === 1) delete measures.gradient_bidirectional;
    measure ??= data.ranking in measures ? data.ranking : Object.keys(measures)[0];
    const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));
    const bodies = [];
    const cursor = { body: null, at: -1 };
    const readout = make("p", { class: "readout", role: "status", "aria-live": "polite" });
    const strongest = make("div", { class: "strongest", role: "group", "aria-label": "Tokens with the largest shares" });
    const sums = make("dl", { class: "numbers", "data-shares": "sums" });
    const shown = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥");

    const rest = () => {
      readout.replaceChildren(
        make("span", { class: "swatch token up", text: "riskier" }), make("span", { class: "swatch token down", text: "safer" }),
        ` by ${measure}. Point at a token, or move with the arrow keys inside a text, to read its share.`);
    };
    const tell = (token) => {
      readout.replaceChildren(
        make("b", { text: `“${shown(token.text)}”` }),
        ` adds ${signed(measures[measure].of(token))} to ${measure} (harmful ${signed(token.harmful)}, safe ${signed(token.safe)})`);
    };
    const point = (body, at, scroll) => {
      cursor.body?.tokens[cursor.at]?.element.classList.remove("at");
      cursor.body = body;
      cursor.at = at;
      const token = body?.tokens[at];
      if (!token) { rest(); return; }
      token.element.classList.add("at");
      if (scroll) token.element.scrollIntoView({ block: "nearest", behavior: "instant" });
      tell(token);
    };

    const colour = () => {
      const { of, sign } = measures[measure];
      const tokens = bodies.flatMap((body) => body.tokens.map((token, at) => ({ body, at, token, value: of(token) })));
      // From the strongest twentieth on the colour is full, so that one extreme token does not leave the rest pale.
      const sizes = tokens.map(({ value }) => Math.abs(value)).sort((a, b) => a - b);
      const full = sizes[Math.floor(0.95 * (sizes.length - 1))] || sizes.at(-1) || 1;
      for (const { token, value } of tokens) {
        token.element.className = `token ${value * sign > 0 ? "up" : "down"}${token.element.classList.contains("at") ? " at" : ""}`;
        token.element.style.setProperty("--depth", Math.min(1, Math.abs(value) / full).toFixed(3));
      }
      strongest.replaceChildren(...tokens.sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, STRONGEST).map(({ body, at, token, value }) =>
        make("button", { type: "button", text: `${shown(token.text)} ${signed(value)}`, on: { click: () => { body.element.focus({ preventScroll: true }); point(body, at, true); } } })));
      const parts = ["prompt", "template", "response"].map((name, at) => ({ name, harmful: row.sums[at][0], safe: row.sums[at][1] }));
      const total = parts.reduce((sum, part) => sum + of(part), 0);
      const beyond = row.beyond && of({ harmful: row.beyond[0], safe: row.beyond[1] });
      sums.replaceChildren(
        ...[...parts.map((part) => [part.name, of(part)]), ["sum", total]].flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: signed(value) })]),
        ...(row.beyond ? [make("dt", { text: "of it, tokens beyond the text shown" }), make("dd", { text: signed(beyond) })] : []));
      if (cursor.at >= 0) tell(cursor.body.tokens[cursor.at]); else rest();
    };

    const choose = (name) => {
      measure = name;
      for (const view of open) {
        if (!view.element.isConnected) { open.delete(view); continue; }
        view.element.querySelector(`[value=${name}]`).checked = true;
        view.colour();
      }
    };

    const step = (body, event) => {
      const last = body.tokens.length - 1;
      const at = cursor.body === body ? cursor.at : -1;
      const next = { ArrowRight: at + 1, ArrowLeft: Math.max(0, at - 1), Home: 0, End: last }[event.key];
      if (event.key === "Escape" && at >= 0) { point(null, -1); event.stopPropagation(); }
      if (next === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      point(body, Math.min(next, last), true);
    };

    return {
      // The text as it is, a span to a token; offsets count characters, not UTF-16 units.
      body: (name, text, visible) => {
        const packed = row[name.toLowerCase()];
        if (!packed) return null;
        const characters = Array.from(text);
        const body = { tokens: [] };
        body.element = make("div", {
          class: "body", "data-part": name.toLowerCase(), tabindex: "0", role: "group",
          "aria-label": `${name}, coloured by token shares; arrow keys move from token to token`, on: { keydown: (event) => step(body, event) },
        });
        let at = 0;
        // packed: length, harmful and safe share of each stretch of the text
        for (let place = 0; place < packed.length; place += 3) {
          const [length, harmful, safe] = packed.slice(place, place + 3);
          const text = characters.slice(at, (at += length)).join("");
          if (harmful === 0 && safe === 0) { body.element.append(...visible(text)); continue; }
          const token = { harmful: harmful * row.unit, safe: safe * row.unit, text, element: make("span", {}, ...visible(text)) };
          token.element.dataset.token = body.tokens.length;
          body.tokens.push(token);
          body.element.append(token.element);
        }
        body.element.append(...visible(characters.slice(at).join("")));
        body.element.addEventListener("mouseover", ({ target }) => {
          const at = target.closest("[data-token]")?.dataset.token;
          if (at !== undefined) point(body, Number(at), false);
        });
        bodies.push(body);
        return body.element;
      },
      // What stands above the texts, and beside them; made after the texts, and coloured then.
      panels: () => {
        const choices = make("fieldset", {}, make("legend", { text: "Token shares of" }), ...Object.entries(measures).map(([name, { label }]) =>
          make("label", {}, make("input", { type: "radio", name: `${id}-shares`, value: name, checked: name === measure, on: { change: () => choose(name) } }), label)));
        open.add({ element: choices, colour });
        colour();
        return [
          bodies.length ? make("div", { class: "shares" }, choices, readout, strongest) : null,
          [make("h4", { text: "Shares of the score, by part" }), sums],
        ];
      },
    };
  };
})();
